"""What a logged scalar is: its kind, title, unit and direction, as its maker says it. Readers do not guess."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from intern_jax.core import strict_json

LOSS, MEASURE, STATE, RUN = KINDS = ("loss", "measure", "state", "run")


@dataclasses.dataclass(frozen=True)
class Scalar:
    """One scalar of a run.

    kind              "loss": what training minimises, or a part of it. "measure": how good the model is. "state": what
                      is neither, such as a temperature. "run": how the run goes, such as a rate or a count
    title             as plots write it, such as "top-1"; "" for the name under which it is logged
    unit              of the shown values: "%", "m", "" for none
    higher_is_better  which way is better; None where neither is
    factor            from logged to shown values: 100 for a share that is shown in percent
    of                the head, set or teacher that it is of; "" where its name says all
    """

    kind: str
    title: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    factor: float = 1.0
    of: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}; known: {', '.join(KINDS)}")

    def named(self, of: str) -> Scalar:
        """The same scalar of a head, set or teacher."""
        return dataclasses.replace(self, of=of)


Scalars = Mapping[str, Scalar]  # by the name under which each is logged

TOTAL = "loss"  # the name of what is minimised, in every run
TERM = Scalar(LOSS, "loss", higher_is_better=False)


def share(title: str, of: str = "") -> Scalar:
    """A measure that is logged as a share from 0 to 1 and shown in percent; more is better."""
    return Scalar(MEASURE, title, "%", higher_is_better=True, factor=100.0, of=of)


def plain(scalars: Scalars) -> dict[str, dict[str, Any]]:
    """The scalars as a file holds them."""
    return {name: dataclasses.asdict(scalars[name]) for name in sorted(scalars)}


def read(path: pathlib.Path) -> dict[str, Scalar]:
    """The scalars of a file of `plain`; none of one that is missing or broken, as older runs have none."""
    try:
        found = strict_json.parse(path.read_bytes())
        return {name: Scalar(**facts) for name, facts in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
