"""The networks: MetaNet, the generalist's transfer modules, text tower and heads."""
