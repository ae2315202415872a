"""Task families as plain records: what data, workers, weights, reports and records know of them. No jax."""

from intern_jax.families.family import Family
from intern_jax.families.table import add, add_of_config, find, known, names, outside

__all__ = ["Family", "add", "add_of_config", "find", "known", "names", "outside"]
