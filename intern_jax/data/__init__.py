"""Samples in, batches out: sources, transforms, mixtures, the stream (jax only in stream.py)."""
