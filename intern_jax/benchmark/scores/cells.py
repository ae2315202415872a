"""From records to cells: which records count, and what those of one place in a table say together."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from intern_jax.benchmark.rows import gvb, suite
from intern_jax.benchmark.scores.record import Record
from intern_jax.core.texts import percent
from intern_jax.metrics import aggregate as aggregates
from intern_jax.metrics.aggregate import Aggregate
from intern_jax.metrics.table import Metric

SCRATCH = ("scratch", "scratch-generalist")  # a branch of the backbone, and the whole of it
TRAINED = ("finetune", *SCRATCH)  # every other method but the floor is a head on a frozen backbone
FLOOR = "floor"  # the method that reads no picture: the best answer that is the same for all
PARTIAL = "*"  # marks a figure on a part of a published data set
COUNTS_NOTE = (
    "labels: share and number of training labels. '3 x 5': 3 backbone seeds, 5 label draws."
)
_WHOLE = {
    row.name: row.whole for row in gvb.ROWS
}  # what records of before that was written down lack


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
    def partial(self) -> str:
        """Of how much of a published data set it is: "40 of 50,000 test pictures"; "" where of all, or not known."""
        train, test = ([_lacking(r, split) for r in self.records] for split in ("train", "test"))
        found = [text for texts in (test, train) for text in dict.fromkeys(texts) if text]
        return ", ".join(found)

    @property
    def mark(self) -> str:
        """PARTIAL for a figure on a part of a published data set, else nothing."""
        return PARTIAL if self.partial else ""

    @property
    def parts(self) -> tuple[str, str]:
        """The mean as tables show it, without mark, and what stands behind it."""
        return (self.printed, "") if self.printed else self.aggregate.parts(self.metric.digits)

    @property
    def text(self) -> str:
        """Both in one, as aggregate.NOTE says it: "74.0 ± 3.9 (1.0)"; "74.0* ± 3.9 (1.0)" on a part of a data set."""
        mean, behind = self.parts
        return " ".join(filter(None, (mean + self.mark, behind)))

    @property
    def repeats(self) -> tuple[int, int]:
        """(backbone seeds, label draws) of its records; the draws are the most of one seed."""
        seeds = [record.seed for record in self.records]
        return len(set(seeds)), max(map(seeds.count, seeds), default=0)

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


def _lacking(record: Record, split: str) -> str:
    """What of a published split a record's row had, where that is less than all of it."""
    n, whole = (
        (record.n_all_train, record.whole_train)
        if split == "train"
        else (record.n_test, record.whole_test)
    )
    if whole is None and record.task in _WHOLE:
        whole = _WHOLE[record.task][split == "test"]
    kind = "training" if split == "train" else split
    if n is None or whole is None or n >= whole:
        return ""
    return f"{n:,} of {whole:,} {kind} pictures"


def needs_boxes(rows: Iterable[str], records: Iterable[Record]) -> list[str]:
    """A note on each of some rows of boxes that has no record."""
    there = {record.task for record in of_test(records)}
    return [
        f"{row.name}: needs boxes: --boxes={row.name}=FILE."
        for row in map(suite.find, rows)
        if row.task_family.answer == "boxes" and row.name not in there
    ]


def partial_notes(cells: Iterable[Cell], titles: Mapping[str, str] | None = None) -> list[str]:
    """A note on each row of which a part was scored: "* Pets: 40 of 3,669 test pictures."; `titles`: {row: name}."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.partial:
            found.setdefault((titles or {}).get(cell.task, cell.task), {})[cell.partial] = None
    return [f"{PARTIAL} {task}: {'; '.join(texts)}." for task, texts in found.items()]


def labels(cells: Iterable[Cell]) -> str:
    """The shares of the labels with their numbers: "10% (133), 100% (1,330)"; "" where no number is known.

    A share that the row's classes raise, since each gives one label at least, says what it really is:
    "1% (84, 6.3%)".
    """
    found: dict[float, set[int]] = {}
    of_all: dict[float, float] = {}
    for cell in cells:
        counts = [r.n_train for r in cell.records if r.n_train is not None]
        found.setdefault(cell.fraction, set()).update(counts)
        for record in cell.records:
            if record.n_train and record.n_all_train:
                of_all[cell.fraction] = record.n_train / record.n_all_train
    texts = []
    for fraction, numbers in sorted(found.items()):
        if numbers:
            low, high = min(numbers), max(numbers)
            text = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            share = of_all.get(fraction, fraction)
            if abs(share - fraction) > 0.05 * fraction:
                text += f", {percent(float(f'{share:.2g}'))}"
            texts.append(f"{percent(fraction)} ({text})")
    return ", ".join(texts)


def repeats(cells: Iterable[Cell], before: str = "") -> str:
    """Seeds and label draws behind some cells' figures: "3 x 5", or "2-3 x 5"; "" where there are no records."""
    counts = [cell.repeats for cell in cells if cell.records]
    if not counts:
        return ""
    ends = [sorted(set(of_one)) for of_one in zip(*counts, strict=True)]
    return before + " x ".join("-".join(map(str, dict.fromkeys((e[0], e[-1])))) for e in ends)


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
