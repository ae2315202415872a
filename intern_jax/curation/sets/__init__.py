"""Labelled data sets that are cut from a pool."""
