"""When has a run diverged? By its logged scalars alone, so that a restart comes to the same answer.

Two signs: `max_bad_steps` steps in a row without a finite loss and gradient (each was left undone);
and, where `train.spike` is set, `patience` logged losses in a row above
    median + sigmas * 1.4826 * median absolute deviation
of the `window` logged losses before them (for normal noise 1.4826 makes it a standard deviation).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST = 8  # logged losses before a spike is judged


class Diverged(Exception):
    """What was seen up to `step`, which counts steps done; the trouble began after `sound` steps."""

    def __init__(self, sound: int, step: int, what: str):
        super().__init__(what)
        self.sound, self.step = sound, step


def look(
    step: int, scalars: Mapping[str, float], history: Sequence[Mapping], cfg: Mapping[str, Any]
) -> None:
    """Raise Diverged if `scalars` of `step`, or the rows logged up to it, show it."""
    streak = int(scalars["bad_steps"])
    if streak >= cfg["max_bad_steps"]:
        what = f"{streak} steps in a row without a finite loss and gradient, up to step {step}"
        raise Diverged(step - streak, step, what)
    if cfg["spike"] and history and history[-1]["step"] == step:
        # Not the rows that an evaluation wrote: with one or without, a run decides the same.
        every = cfg.get("log_every", 1)
        logged = [row for row in history if row["step"] % every == 0 or row["step"] == step]
        _look_for_spike(logged, cfg["spike"])


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
