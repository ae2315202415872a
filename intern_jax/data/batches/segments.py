"""Segments say which batch a step reads: each gives a seed, weights and a position, from some step on.

A run begins with one segment, and with one more for each step at which a source begins or ends. A roll-back adds
another one, to read other data. Nothing else about the data needs to be saved, and the batch of any step can be made
again from the list of segments.

Batches of one seed are numbered without end. A batch's number decides its rows: row r of batch i is row i B + r of all
rows, for batches of B rows. A segment that keeps the seed of the one before it and changes the weights cuts this line
at its offset. Earlier batches are counted by the weights before, later ones by the new weights. So each source goes on
in its own order after the draws that it had in all batches of lower number, whether these were read or left out by a
roll-back. So a roll-back to before a change of weights may read samples again that the dropped steps after the change
had read. A segment with another seed than the one before it starts afresh: from its own batch 0, by its own weights.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from intern_jax.core.config import UserError

Weights = Mapping[str, Sequence[float]]
# (number of the first batch, weights) of each stretch of batches, in their order; the first begins with batch 0.
Stretches = tuple[tuple[int, Weights | None], ...]


@dataclasses.dataclass(frozen=True)
class Segment:
    """From step `first_step` on, step t reads batch offset + t - first_step of the mixture of this seed.

    `weights` = {group: one weight per source} replace those of the config, if given. A weight of 0 leaves a source out.
    """

    first_step: int = 0
    offset: int = 0
    seed: int = 0
    weights: Weights | None = None


class Place(NamedTuple):
    """Where a step's batch lies: it is number `number` of a seed's batches, whose weights `stretches` tell."""

    seed: int
    stretches: Stretches
    number: int


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
    """The segments with a new one from `first_step` on, all of which have the last one's seed if `seed` is None.

    A later segment stays if it changes the weights: they change at the same step as before, and the batches go on there
    without a gap. Other segments that begin at `first_step` or later are dropped.
    """
    seed = segments[-1].seed if seed is None else seed
    kept = [segment for segment in segments if segment.first_step < first_step]
    weights = place_in(segments, first_step).weights
    kept.append(Segment(first_step, offset, seed, weights))
    for segment in segments:
        if segment.first_step > first_step and _frozen(segment.weights) != _frozen(weights):
            weights = segment.weights
            ahead = segment.first_step - first_step
            kept.append(Segment(segment.first_step, offset + ahead, seed, weights))
    return kept


def place_in(segments: Sequence[Any], step: int) -> Any:
    """The segment of a step."""
    if step < 0:
        raise UserError(f"stream/step: {step}; steps count from 0")
    return segments[bisect.bisect_right([s.first_step for s in segments], step) - 1]


def place(segments: Sequence[Segment], step: int) -> Place:
    """The place of a step's batch."""
    own = place_in(segments, step)
    stretches: list[tuple[int, Weights | None]] = []
    seed = None
    for segment in segments:
        if segment.first_step > own.first_step:
            break
        if segment.seed != seed:
            stretches, seed = [], segment.seed
        stretches = [one for one in stretches if one[0] < segment.offset]
        if not stretches or _frozen(stretches[-1][1]) != _frozen(segment.weights):
            stretches.append((segment.offset if stretches else 0, segment.weights))
    return Place(own.seed, tuple(stretches), own.offset + step - own.first_step)


def scheduled(groups: Mapping[str, Any], seed: int) -> list[Segment]:
    """The segments of a run whose groups' sources `begin` and `end` at steps: one for each step with a change.

    `groups` maps a name to a group's config; ready batches have no schedule. Without any change it is one segment.
    """
    changes = {
        name: timed_weights(cfg["sources"], f"{name}.sources")
        for name, cfg in groups.items()
        if isinstance(cfg, Mapping) and cfg.get("sources")
    }
    changes = {name: timed for name, timed in changes.items() if len(timed) > 1}
    steps = sorted({step for timed in changes.values() for step, _ in timed} | {0})
    return [
        Segment(
            *(step, step, seed),
            {
                name: [weights for first, weights in timed if first <= step][-1]
                for name, timed in changes.items()
            }
            or None,
        )
        for step in steps
    ]


def timed_weights(
    sources: Iterable[Mapping[str, Any]], where: str
) -> list[tuple[int, tuple[float, ...]]]:
    """[(first step, weights from then on)] of a group's sources: 0 for one that has not begun or has ended.

    The list begins with step 0. UserError for a source that ends before it begins, and for steps without a source.
    """
    spans = [(spec.get("weight", 1.0), spec.get("begin", 0), spec.get("end")) for spec in sources]
    for i, (_, begin, end) in enumerate(spans):
        if end is not None and end <= begin:
            raise UserError(f"{where}[{i}].end: {end}; write a step after begin, {begin}")
    steps = {step for _, *span in spans for step in span if step is not None} | {0}
    timed: list[tuple[int, tuple[float, ...]]] = []
    for step in sorted(steps):
        there = [begin <= step and (end is None or step < end) for _, begin, end in spans]
        if not any(there):
            raise UserError(f"{where}: none from step {step} on; let one begin earlier or not end")
        weights = tuple(w if one else 0.0 for (w, *_), one in zip(spans, there, strict=True))
        if not timed or weights != timed[-1][1]:
            timed.append((step, weights))
    return timed


def _frozen(weights: Weights | None) -> Any:
    """Weights as a value that can be compared and hashed."""
    return tuple((name, tuple(given)) for name, given in sorted((weights or {}).items()))
