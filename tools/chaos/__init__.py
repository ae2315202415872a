"""The campaign: programs that do to a run what happens to runs, and count what came of it."""
