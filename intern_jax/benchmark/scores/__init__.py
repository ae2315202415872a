"""Scores: from statistics of test images to records, and from records to tables and pages."""
