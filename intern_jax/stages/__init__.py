"""The paper's training stages: each builds a model, names its losses and says from what it starts."""
