"""The quickstart's amateur alone: the training that goodput.py kills every minute.

Command:   python -m intern_jax run --config=tools/chaos/amateur.py --workdir=runs/amateur
Hardware:  two CPU cores, a few minutes
"""

import ml_collections

from intern_jax.core.config import load_config


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's first stage, without the benchmark."""
    config = load_config("quickstart")
    config.stages = ("amateur",)
    config.benchmark = None
    return config
