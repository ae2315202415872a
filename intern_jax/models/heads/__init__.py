"""Heads: they map a backbone's features to logits, masks, depth or embeddings."""
