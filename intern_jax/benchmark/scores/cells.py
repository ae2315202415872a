"""From records to cells: which records count, and what those of one place in a table say together."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from intern_jax.benchmark.scores.record import Record
from intern_jax.metrics import aggregate as aggregates
from intern_jax.metrics.aggregate import Aggregate
from intern_jax.metrics.table import Metric


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a method on a row, of one head at one share of the labels.

    task, family      name of the row and of its task family
    figure            one of the metric's figures; "" for the score itself
    n_train, n_test   numbers of images, means over the records; NaN where they are not known
    records           that it is the aggregate of; none for stored and for published figures
    printed           a published figure as its authors print it
    """

    task: str
    family: str
    metric: Metric
    method: str
    head: str
    fraction: float
    aggregate: Aggregate
    figure: str = ""
    n_train: float = math.nan
    n_test: float = math.nan
    records: tuple[Record, ...] = ()
    printed: str = ""

    @property
    def parts(self) -> tuple[str, str]:
        """The mean as tables show it, and what stands behind it."""
        return (self.printed, "") if self.printed else self.aggregate.parts(self.metric.digits)

    @property
    def text(self) -> str:
        """Both in one, as aggregate.NOTE says it: "74.0 ± 3.9 (1.0)"."""
        return " ".join(filter(None, self.parts))

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of its records by name: more than one where these differ."""
        found = {record.metric: record.measure for record in self.records}
        return [found[name] for name in sorted(found)] or [self.metric]


def counted(records: Iterable[Record]) -> list[Record]:
    """The records that tables show: of the test split, and of several of one draw the last."""
    newest = {}
    for one in of_test(records):
        newest[one.task, one.method, one.head, one.fraction, one.seed, one.draw] = one
    return list(newest.values())


def of_test(records: Iterable[Record]) -> list[Record]:
    """Records of the test split."""
    return [record for record in records if record.split == "test"]


def of(records: Iterable[Record], figures: Mapping[str, Sequence[str]] | None = None) -> list[Cell]:
    """Cells of the records that count, in the order of the records; `figures`: {row: its figures}, else the score."""
    groups: dict[tuple, list[Record]] = {}
    for one in counted(records):
        groups.setdefault((one.task, one.method, one.head, one.fraction), []).append(one)
    cells = []
    for rows in groups.values():
        for figure in (figures or {}).get(rows[0].task, ("",)):
            there = [row for row in rows if row.figure(figure) is not None]
            if there:
                cells.append(_cell(there, figure))
    return cells


def _cell(records: Sequence[Record], figure: str) -> Cell:
    first = records[0]
    values = [value for record in records if (value := record.figure(figure)) is not None]
    # A record's error is of its score: of the one figure of several that equals it.
    main = not figure or all(record.score == record.figure(figure) for record in records)
    return Cell(
        task=first.task,
        family=first.family,
        metric=first.measure,
        method=first.method,
        head=first.head,
        fraction=first.fraction,
        aggregate=aggregates.of(values, [r.standard_error for r in records] if main else ()),
        figure=figure,
        n_train=_mean([record.n_train for record in records]),
        n_test=_mean([record.n_test for record in records]),
        records=tuple(records),
    )


def _mean(values: Sequence[int | None]) -> float:
    return float(np.mean([math.nan if value is None else value for value in values]))


def remarks(records: Iterable[Record]) -> list[str]:
    """What a reader has to know of the records that count and of those that do not: a sentence each."""
    records, found = list(records), []
    shown = counted(records)
    if older := len(of_test(records)) - len(shown):
        found.append(
            f"{older} older records of the same draws (other settings, versions or backbones) are left out."
        )
    versions = sorted({record.versions.get("intern_jax", "?") for record in shown})
    if len(versions) > 1:
        found.append(f"The records are of several versions of intern_jax: {', '.join(versions)}.")
    return found
