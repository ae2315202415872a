"""Frozen teachers of a stage, and what of theirs it imitates."""
