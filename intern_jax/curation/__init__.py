"""GV-D, the data system: makes a pre-training set of what a person has, from a laptop to a cluster."""
