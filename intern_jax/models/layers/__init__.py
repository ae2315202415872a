"""What networks are made of: layers, and blocks of them."""
