"""A stage's train step compiled for TPU chips that are not here, and what that says of memory and time."""
