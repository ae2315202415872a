"""Batches by step, made from sources: settings, mixture, shuffle, workers and stream."""
