"""Settings of every test: CPU only, no silent broadcasting over ranks, absl flags parsed."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
from absl import flags  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()
