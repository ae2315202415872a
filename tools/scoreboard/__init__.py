"""BENCHMARKS.md and benchmarks/*.md, made of committed figures; benchmarks/README.md says how to add to them."""
