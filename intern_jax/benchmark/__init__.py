"""GV-B and its mini rows: which data, which labels, which score, how sure."""
