"""Reports of runs and of GV-B, made only from their files."""
