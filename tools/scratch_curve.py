"""What longer training from random weights brings: the records of a run of configs/scratch.py as a table of figures.

    python -m tools.scratch_curve [runs/scratch/records] --out=benchmarks/data/scratch.json

The records are those of benchmarks/scratch where no folder is given. The search may still be under way: a length has a
row once a trial of it is there. The best trial of each length stands: at the shortest all rates and weight decays are
tried, and longer ones with the best of them. The score on test images stands at the length that was chosen. Run it on
the machine of the run, which is written down. The date is that of the table.
"""

import argparse
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from intern_jax.benchmark.scores import record
from intern_jax.benchmark.scores.record import Record
from intern_jax.core.config import UserError
from intern_jax.core.texts import percent
from tools.bench import measured
from tools.bench.measured import Cell, Measured

KEPT = measured.ROOT / "benchmarks" / "scratch"
TITLE = "Scratch by length of training, with settings chosen on held-out labels"
TRIAL, SCRATCH = "tune", "scratch"  # methods of records; that of another network is scratch-NAME
COLUMNS: tuple[Mapping[str, Any], ...] = (
    {"name": "task"},
    {"name": "labels"},
    {"name": "network"},
    {"name": "views"},
    {"name": "trials"},
    {"name": "rate"},
    {"name": "weight decay"},
    {"name": "held out", "digits": 1},
    {"name": "test", "digits": 1},
)
KEY = 4  # so many of them name a row
NOTES = (
    "Held out: a fifth of the labels, for which the score of the best trial stands. Test: the network trained with the "
    "chosen settings on all of the labels, at the length that was chosen. Where a search had a lower limit first, its "
    "choice stands too.",
    "Network: embedded is one branch's, generalist the whole generalist's. A view is one picture, augmented anew. One "
    "seed and one label draw. The trainings took several days beside other work, by configs/scratch.py.",
    "rooms_seg: test rooms hold other models of furniture than those to learn from, and held-out rooms hold the same. "
    "The held-out score therefore promises more than the test score gives.",
)


def main() -> None:
    """Print the table, and write it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, nargs="?", default=KEPT)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    # The load and the commit would be those of this program, and not of the trainings.
    given = measured.provenance("tools.scratch_curve") | {"load": "", "commit": None}
    made = table(record.read_folder(args.folder), title=TITLE, **given)
    print(made.markdown())
    if args.out:
        made.write(args.out)


def table(records: Sequence[Record], **given: Any) -> Measured:
    """One row per task, share of labels, network and length. Raises UserError where no trial is there."""
    trials: dict[tuple[Any, ...], list[Record]] = {}
    for one in records:
        if one.method == TRIAL:
            trials.setdefault(_place(one), []).append(one)
    if not trials:
        raise UserError("records: no trial of a training from random weights is among them")
    chosen = {_place(one): one for one in records if one.method.split("-")[0] == SCRATCH}
    rows = [_row(place, trials[place], chosen.get(place)) for place in sorted(trials)]
    return Measured(columns=COLUMNS, rows=rows, key=KEY, notes=NOTES, **given)


def _place(one: Record) -> tuple[str, float, str, int]:
    """Where a record stands in the table: task, share of the labels, network and views."""
    network = one.backbone if isinstance(one.backbone, str) else one.backbone["name"]
    return one.task, one.fraction, network, one.settings["steps"] * one.settings["batch_size"]


def _row(
    place: tuple[str, float, str, int], trials: Sequence[Record], chosen: Record | None
) -> list[Cell]:
    task, fraction, network, views = place
    best = max(trials, key=_rank)
    settings = best.settings
    rates: list[Cell] = [settings["learning_rate"], settings["weight_decay"]]
    scores = [_score(best), _score(chosen) if chosen else None]
    return [task, percent(fraction), network, views, len(trials), *rates, *scores]


def _rank(one: Record) -> tuple[float, ...]:
    """The greater the better; a trial that diverged is the worst. Of equal ones the search takes the first."""
    score = one.score if one.higher_is_better else -one.score
    order = (-one.settings["weight_decay"], -one.settings["learning_rate"])
    return (-math.inf if math.isnan(score) else score, *order)


def _score(one: Record) -> Cell:
    if math.isnan(one.score):
        return None
    cell: dict[str, Any] = {"value": one.score, "unit": one.unit, "digits": one.digits}
    known = math.isfinite(one.standard_error)
    return cell | ({"standard_error": one.standard_error} if known else {})


if __name__ == "__main__":
    main()
