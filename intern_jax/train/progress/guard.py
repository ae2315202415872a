"""Whether a run has diverged, judged by its logged scalars alone, so that a restart judges the same.

There are two signs. The first is `max_bad_steps` steps in a row without a finite loss and gradient;
the step has undone each of them, and counts on once there were so many (step.py). The second
needs `train.spike`: `patience` logged losses in a row are above
    median + sigmas * 1.4826 * median absolute deviation
of the `window` logged losses before them. The factor 1.4826 turns the deviation of normal noise
into its standard deviation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError

LEAST = 8  # the number of logged losses that must precede a spike


class Diverged(Exception):
    """The run has diverged. `step` counts the steps done; the trouble began after `sound` steps."""

    def __init__(self, sound: int, step: int, what: str):
        super().__init__(what)
        self.sound, self.step = sound, step


class Hopeless(UserError):
    """A divergence that no roll-back helps: the learning rate is too high, or the data is wrong."""


def look(
    step: int, scalars: Mapping[str, float], history: Sequence[Mapping], cfg: Mapping[str, Any]
) -> None:
    """Raise Diverged if the `scalars` of `step`, or the scalars logged before it, show a divergence."""
    sound, limit = step - int(scalars["bad_steps"]), cfg["max_bad_steps"]
    if step - sound >= limit:
        what = (
            f"{limit} steps in a row without a finite loss and gradient, from step {sound + 1} on"
        )
        raise Diverged(sound, step, what)
    if cfg["spike"] and history and history[-1]["step"] == step:
        # Rows that an evaluation wrote are left out: evaluations must not change the decision.
        every = cfg.get("log_every", 1)
        logged = [row for row in history if row["step"] % every == 0 or row["step"] == step]
        # The loss is another one after its weights were set (balance.py).
        set_at = (cfg.get("balance") or {}).get("step", 0)
        if step > set_at:
            logged = [row for row in logged if row["step"] > set_at]
        _look_for_spike(logged, cfg["spike"])


def horizon(cfg: Mapping[str, Any]) -> int:
    """By how many steps at most the last sound step precedes the one at which `look` finds a divergence."""
    every = cfg["log_every"]
    # A streak is as old as it is long, and is read up to `every` steps later.
    streak = cfg["max_bad_steps"] + every
    # Logged losses that are not finite are left out of the search for a spike: they are those of a streak.
    return streak + (every * (cfg["spike"]["patience"] + 1) if cfg["spike"] else 0)


def _look_for_spike(history: Sequence[Mapping], spike: Mapping[str, Any]) -> None:
    patience, window = int(spike["patience"]), int(spike["window"])
    rows = [row for row in history if row["loss"] is not None][-window - patience :]
    before, last = rows[:-patience], rows[-patience:]
    if len(before) < LEAST:
        return
    losses = np.array([row["loss"] for row in before])
    median = np.median(losses)
    limit = median + spike["sigmas"] * 1.4826 * np.median(np.abs(losses - median))
    if all(row["loss"] > limit for row in last):
        what = (
            f"the loss was above {limit:.4g} ({spike['sigmas']:g} sigmas) at the logged steps "
            f"{last[0]['step']} to {last[-1]['step']}"
        )
        raise Diverged(before[-1]["step"], last[-1]["step"], what)
