"""Transforms, which make a row from a sample: views, boxes, dense targets and texts."""
