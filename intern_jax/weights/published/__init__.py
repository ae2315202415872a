"""Files of other libraries: read into ours, and written in their names."""
