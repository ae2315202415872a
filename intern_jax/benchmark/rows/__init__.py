"""The rows of the benchmark as data: GV-B's 26, the mini ones, and the published figures."""
