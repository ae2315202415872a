"""A backbone and few labels in, a task model out."""
