"""Segments say which batch a step reads: each gives a seed and a position, from some step on.

A run begins with one segment. A roll-back appends another one, to read other data. Nothing else about the data
needs to be saved, and the batch of any step can be made again.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence

from intern_jax.core.config import UserError

Weights = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Segment:
    """From step `first_step` on, step t reads batch offset + t - first_step of the mixture of this seed.

    `weights` = {group: one weight per source} replace those of the config, if given.
    """

    first_step: int = 0
    offset: int = 0
    seed: int = 0
    weights: Weights | None = None


def checked(segments: Sequence[Segment], groups: Sequence[str]) -> tuple[Segment, ...]:
    """The segments, if they begin at step 0, ascend, and give weights of these groups only; else UserError."""
    starts = [segment.first_step for segment in segments]
    if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
        raise UserError(
            f"stream/segments: first steps {starts}; begin at 0 and increase from one to the next"
        )
    for segment in segments:
        if segment.offset < 0:
            raise UserError(f"stream/segments: offset {segment.offset}; give 0 or more")
        for name in segment.weights or {}:
            if name not in groups:
                raise UserError(f"stream/segments: weights of '{name}'; known: {', '.join(groups)}")
    return tuple(segments)


def opened(
    segments: Sequence[Segment], first_step: int, offset: int, seed: int | None = None
) -> list[Segment]:
    """The segments with a new one from `first_step` on; segments that begin there or later are dropped.

    The new one has the weights of the last segment, and its seed if `seed` is None.
    """
    last = segments[-1]
    kept = [segment for segment in segments if segment.first_step < first_step]
    seed = last.seed if seed is None else seed
    return [*kept, Segment(first_step, offset, seed, last.weights)]


def place(segments: Sequence[Segment], step: int) -> tuple[Segment, int]:
    """The segment of a step, and the index of the step's batch in it."""
    if step < 0:
        raise UserError(f"stream/step: {step}; steps count from 0")
    number = bisect.bisect_right([s.first_step for s in segments], step) - 1
    segment = segments[number]
    return segment, segment.offset + step - segment.first_step
