"""What a sample is, what offers samples, and digests of both; imports nothing of the other rooms of data."""
