"""Task families with their networks: one file per family, with its head, loss, answer and picture."""
