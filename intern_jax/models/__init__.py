"""The networks: backbones, the generalist's transfer modules, the text tower and heads."""
