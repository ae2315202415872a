"""From files to batches: sources, transforms, mixtures and the stream. Only batches/stream.py uses jax."""
