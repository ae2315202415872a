"""Careful readers of files: pictures, annotations, lists and archives."""
