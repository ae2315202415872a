"""Measures on numpy arrays, as the benchmark reports them; fractions, not percent."""
