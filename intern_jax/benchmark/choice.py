"""The choice of a training's settings by held-out scores: rates and weight decays at one length, then longer ones."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from intern_jax.core.config import UserError

LONGER = 4  # by this factor, while the longest length is the best
# {how a budget was found: what a reader has to know of it}.
BUDGETS = {
    "one setting": "one setting, not tuned; the budget is short",
    "few labels": "too few labels to hold some out: the first setting, not tuned",
    "one length": "tuned at one length; the budget is short",
    "limit": "the longest length allowed was the best; a longer one may be better",
    "searched": "tuned; a longer training was no better on held-out labels",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to train; `length` is a factor of the usual number of views."""

    learning_rate: float
    weight_decay: float
    length: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """The chosen setting, the held-out scores of all that were tried, and how the budget was found (BUDGETS)."""

    setting: Setting
    tried: tuple[tuple[Setting, float], ...]
    budget: str


def first(cfg: Mapping[str, Any], budget: str) -> Choice:
    """The first rate and weight decay at the shortest length, without a trial."""
    return Choice(_at_first(cfg)[0], (), budget)


def is_open(cfg: Mapping[str, Any]) -> bool:
    """Whether there is more than one setting to choose from."""
    lengths = _lengths(cfg)
    return len(_at_first(cfg)) > 1 or len(lengths) > 1 or LONGER * lengths[-1] <= _limit(cfg)


def choose(
    cfg: Mapping[str, Any], measure: Callable[[Setting], float], higher_is_better: bool
) -> Choice:
    """Try rates and weight decays at the shortest length, then longer ones with the best of them.

    cfg: `learning_rates`, `weight_decays`, `lengths` and `longest` of a Scratch (settings.py). `measure` gives a
    setting's held-out score; NaN is the worst. Of equal scores the first counts, and that is the shorter training.
    Raises UserError where all scores at the shortest length are NaN.
    """
    tried = [(setting, measure(setting)) for setting in _at_first(cfg)]
    if all(math.isnan(score) for _, score in tried):
        raise UserError(
            f"scratch.learning_rates: {cfg['learning_rates']}: none trained without diverging; "
            "give lower ones"
        )
    sign = 1 if higher_is_better else -1

    def best() -> Setting:
        return max(tried, key=lambda one: -math.inf if math.isnan(one[1]) else sign * one[1])[0]

    start, lengths, limit = best(), _lengths(cfg), _limit(cfg)
    for length in lengths[1:]:
        longer = dataclasses.replace(start, length=length)
        tried.append((longer, measure(longer)))
    longest = lengths[-1]
    while best().length == longest and LONGER * longest <= limit:
        longest *= LONGER
        longer = dataclasses.replace(start, length=longest)
        tried.append((longer, measure(longer)))
    found = "limit" if best().length == longest else "searched"
    if longest == lengths[0]:
        found = "one length"
    return Choice(best(), tuple(tried), found)


def _at_first(cfg: Mapping[str, Any]) -> list[Setting]:
    shortest = _lengths(cfg)[0]
    return [
        Setting(rate, decay, shortest)
        for decay in cfg["weight_decays"]
        for rate in cfg["learning_rates"]
    ]


def _lengths(cfg: Mapping[str, Any]) -> list[float]:
    return sorted(set(cfg["lengths"]))


def _limit(cfg: Mapping[str, Any]) -> float:
    return max(cfg["lengths"]) if cfg["longest"] is None else cfg["longest"]
