"""Settings of the loop: their defaults, and what is refused before any work."""

from collections.abc import Mapping
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.train import optim

DEFAULTS: dict[str, Any] = {
    "steps": None,  # has no default
    "seed": 0,
    "optim": {},
    "accumulate": 1,
    "ema_decay": 0.0,
    "checkpoint_every": None,  # steps; None: nothing is written
    "keep": 2,  # the newest checkpoints
    "keep_every": None,  # and for good those of every so many steps
    "log_every": 50,
    "max_bad_steps": 10,  # in a row without a finite loss and gradient: diverged
    "spike": None,  # see train/guard.py
    "max_rollbacks": 3,  # 0: a run that diverges stops
    "profile": None,
}
SPIKE = {"sigmas": 6.0, "window": 64, "patience": 3}
POSITIVE = ("accumulate", "checkpoint_every", "keep", "keep_every", "log_every", "max_bad_steps")
NOT_NEGATIVE = ("steps", "max_rollbacks")
OPTIONAL = ("steps", "checkpoint_every", "keep_every")


def check(cfg: Mapping[str, Any]) -> None:
    """Refuse unknown fields and values of a loop's settings."""
    for name, value in cfg.items():
        if name not in DEFAULTS:
            raise UserError(f"train.{name}: no such field; known: {', '.join(DEFAULTS)}")
        if name in OPTIONAL and value is None:
            continue
        if name in POSITIVE and not _whole(value, 1):
            raise UserError(f"train.{name}: {value!r}; write a whole number of at least 1")
        if name in NOT_NEGATIVE and not _whole(value, 0):
            raise UserError(f"train.{name}: {value!r}; write a whole number, 0 for none")
    if not _whole(cfg.get("seed", 0)):
        raise UserError(f"train.seed: {cfg['seed']!r}; write a whole number")
    decay = cfg.get("ema_decay", 0.0)
    if not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise UserError(f"train.ema_decay: {cfg['ema_decay']!r}; write 0 for none, or less than 1")
    window = cfg.get("profile")
    pair = isinstance(window, list | tuple) and len(window) == 2
    if window and not (pair and 0 <= window[0] < window[1]):
        raise UserError(f"train.profile: {window!r}; write (first step, step to stop before)")
    if not hasattr(cfg.get("optim", {}), "keys"):
        raise UserError(f"train.optim: {cfg['optim']!r}; write a group of fields")
    optim.settings(cfg.get("optim", {}))
    spike(cfg.get("spike"))


def spike(cfg: Any) -> dict[str, Any] | None:
    """The spike guard's settings with defaults filled in; None where it is off."""
    if cfg is None:
        return None
    if not hasattr(cfg, "keys"):
        raise UserError(f"train.spike: {cfg!r}; write a group of {', '.join(SPIKE)}, or None")
    for name, value in cfg.items():
        if name not in SPIKE:
            raise UserError(f"train.spike.{name}: no such field; known: {', '.join(SPIKE)}")
        if not isinstance(value, int | float) or not value > 0:
            raise UserError(f"train.spike.{name}: {value!r}; write a number above 0")
    return SPIKE | dict(cfg)


def _whole(value: Any, least: int | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and (least is None or value >= least)
