"""One opener for data of a user's own: `opening.open_data` recognises the format and gives a source."""
