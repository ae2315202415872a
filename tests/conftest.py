"""Settings of every test: CPU only, no silent broadcasting over ranks, absl flags parsed."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()
