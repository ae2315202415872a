"""Weight files of other libraries: read into our models, and written with their names."""
