"""Parts of the builder of the embedded data; `tools/build_embedded.py` is the command."""
