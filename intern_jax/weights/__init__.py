"""Weights as plain data: safetensors files and the model folders around them."""
