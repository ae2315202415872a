"""GV-B's 20 classification data sets."""
