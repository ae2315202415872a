"""The one training loop. It knows no model, no loss and no data set: a stage tells it what to do."""
