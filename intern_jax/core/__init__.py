"""What every room shares: configs, meshes, parameter trees, keys. Imports none of them."""
