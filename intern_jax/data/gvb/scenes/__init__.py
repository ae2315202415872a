"""GV-B's detection, segmentation and depth data sets."""
