"""What a run tells while it works: its scalars, its rates, and a profile."""
