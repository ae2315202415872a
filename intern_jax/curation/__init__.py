"""Choose what to learn from: facts of pictures, near-duplicates, and what to keep."""
