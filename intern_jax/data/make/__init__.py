"""From a sample to a row: views, dense targets, texts."""
