"""Task heads: features of a backbone in, logits, masks or embeddings out."""
