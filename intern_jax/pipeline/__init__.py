"""A config's stages in order, then its benchmark and its report."""

from intern_jax.pipeline.building import build_stage, in_dtype
from intern_jax.pipeline.chain import run
from intern_jax.pipeline.settings import check

__all__ = ["build_stage", "check", "in_dtype", "run"]
