"""`adapt` on the embedded classification rows at a label fraction: the saved model's test score, and its own estimate.

    python -m tools.bench.adapt_rows [--fraction=0.1] [--draws=3] [--init=FOLDER] [--rows=A,B] [--NAME=VALUE ...]
                                     [--raw=FILE.json] [--before=FILE.json] [--out=FILE.json]

Each draw's labelled pictures are written as a folder of class folders, adapted to by `adapt_folder`, and the saved
model is scored on the row's test pictures. A class with one labelled picture is left out, and its test pictures count
as wrong; the estimate is held against the score of the other classes. Other flags are those of `adapt`. To compare two
checkouts, run it with --raw in the one and with --before of that file in the other: the draws are the same.
"""

import argparse
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

import intern_jax
from intern_jax.adapt.folder import adapt_folder
from intern_jax.benchmark import protocol
from intern_jax.core.texts import percent
from intern_jax.data import embedded
from intern_jax.metrics import aggregate as aggregates
from intern_jax.verbs import arguments
from tools.bench import measured
from tools.bench.measured import Cell, Measured

ROWS = "emoji_style,emoji_style_group,emoji_concept,clipart_leaf,fashion,furniture"


def main() -> None:
    """Print a line per row and draw, then the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--init")
    parser.add_argument("--rows", default=ROWS)
    for name in ("--raw", "--before", "--out"):
        parser.add_argument(name, type=pathlib.Path)
    args, rest = parser.parse_known_args()
    settings, found = arguments.keyword_arguments(rest), []
    for row in args.rows.split(","):
        for draw in range(args.draws):
            found.append(one(row, args.fraction, draw, args.init, settings))
            print(
                "{row} {draw}: test {test:.1f}, of known classes {known:.1f}, estimate {estimate:.1f} {inside}".format(
                    **found[-1]
                ),
                flush=True,
            )
    if args.raw:
        args.raw.write_text(json.dumps(found, indent=1) + "\n")
    before = json.loads(args.before.read_text()) if args.before else []
    made = table(found, before, measured.provenance("tools.bench.adapt_rows"), args)
    print(made.markdown())
    if args.out:
        made.write(args.out)


def table(
    found: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    args: argparse.Namespace,
) -> Measured:
    """A line per row and one of their mean; `before`: the same draws of another checkout."""
    rows = [
        of_row(name, *(pick(runs, name) for runs in (found, before)))
        for name in dict.fromkeys(r["row"] for r in found)
    ]
    rows.append(of_row("mean over rows", *(by_draw(runs) for runs in (found, before))))
    rows[-1][-1] = f"{sum(r['inside'] for r in found)} of {len(found)}"
    return Measured(
        **given,
        title=f"`adapt` on the embedded rows with {percent(args.fraction)} of the labels",
        columns=(
            {"name": "row"},
            {"name": "labels"},
            {"name": "before", "unit": "%", "digits": 1},
            {"name": "now", "unit": "%", "digits": 1},
            {"name": "gain", "unit": "points", "digits": 1, "style": "signed"},
            {"name": "estimate", "unit": "%", "digits": 1},
            {"name": "interval holds the score"},
        ),
        rows=rows,
        over="label draws",
        interval="95% t-interval of the mean gain over label draws",
        notes=[
            "Scores are of all test pictures; the interval is held against those of classes with labels.",
            f"{args.draws} draws; classes with one labelled picture are left out on both sides.",
        ],
        raw={"runs": list(found), "before": list(before)},
    )


def pick(runs: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The runs of one row."""
    return [run for run in runs if run["row"] == name]


def by_draw(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The means over rows of each draw, as runs."""
    draws = sorted({run["draw"] for run in runs})
    own = [[run for run in runs if run["draw"] == draw] for draw in draws]
    return [
        {name: float(np.mean([run[name] for run in one])) for name in ("test", "estimate", "n")}
        for one in own
    ]


def of_row(
    name: str, now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]
) -> list[Cell]:
    """One line of the table."""
    gains = [a["test"] - b["test"] for a, b in zip(now, before, strict=True)] if before else []
    gain = aggregates.of(gains) if gains else None
    cell = gain and {"mean": gain.mean}
    if gain and math.isfinite(gain.interval):
        ends = {"low": gain.mean - gain.interval, "high": gain.mean + gain.interval}
        cell = {"mean": gain.mean, **ends}
    return [
        name,
        round(float(np.mean([run["n"] for run in now])), 1),
        spread([run["test"] for run in before]) if before else None,
        spread([run["test"] for run in now]),
        cell,
        spread([run["estimate"] for run in now]),
        f"{sum(run.get('inside', 0) for run in now)} of {len(now)}",
    ]


def spread(values: Sequence[float]) -> Cell:
    """The mean of several draws, with their standard deviation."""
    found = aggregates.of(values)
    return {"mean": found.mean, "sd": found.sd, "n": found.n}


def one(
    row: str, fraction: float, draw: int, init: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """One draw of one row."""
    train, test = (embedded.load(row, split=split) for split in ("train", "test"))
    labels = np.asarray(train.labels)
    chosen = protocol.subset(train.keys, labels, fraction, draw)
    counts = np.bincount(labels[chosen], minlength=len(train.classes))
    with tempfile.TemporaryDirectory() as home:
        data = pathlib.Path(home) / "data"
        for i in chosen:
            name = train.classes[labels[i]].replace("/", "_")
            if counts[labels[i]] < 2:  # what an earlier version refuses
                continue
            (data / name).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(train[int(i)]["image"]).save(data / name / f"{i}.png")
        facts = adapt_folder(data, pathlib.Path(home) / "model", init, **settings)
        model = intern_jax.load(pathlib.Path(home) / "model")
        answers = model.predict([test[i]["image"] for i in range(len(test))], batch_size=128)
    truth = [test.classes[label].replace("/", "_") for label in test.labels]
    right = np.array([a["label"] == t for a, t in zip(answers, truth, strict=True)])
    # The estimate is of pictures of the folder's own classes: of a class without pictures it can know nothing.
    score, known = float(right.mean()), float(right[np.isin(truth, model.classes)].mean())
    low, high = facts["interval_low"], facts["interval_high"]
    return {
        "row": row,
        "draw": draw,
        "n": facts["n_train"],
        "test": 100 * score,
        "known": 100 * known,
        "estimate": 100 * facts["accuracy"],
        "interval": [100 * low, 100 * high],
        "inside": bool(low <= known <= high),
    }


if __name__ == "__main__":
    main()
