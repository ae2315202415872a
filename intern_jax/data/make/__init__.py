"""Transforms, which make a row from a sample: views, dense targets and texts."""
