"""How jobs of curation run: parts, the local runner, Apache Beam."""
