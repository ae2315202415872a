"""From sources to batches by step: settings, mixture, shuffle, workers, stream."""
