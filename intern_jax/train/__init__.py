"""The one training loop. It knows no model, loss or data set; a stage tells it what to do."""
