"""The networks by name, as settings."""
