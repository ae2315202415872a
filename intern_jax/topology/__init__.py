"""Compile a stage's train step for TPU chips that are not here, and estimate its memory and time."""
