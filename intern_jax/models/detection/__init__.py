"""Detectors on the maps of any backbone: feature pyramids, and heads that find boxes in them."""
