"""Random-access sources of samples."""
