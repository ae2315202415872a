"""Losses: arrays in, scalars out, in at least float32."""
