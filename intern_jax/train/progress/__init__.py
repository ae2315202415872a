"""What a run tells while it works: its scalars, its rates, a profile, and whether it has diverged."""
