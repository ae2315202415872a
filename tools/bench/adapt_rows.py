"""`adapt` on the embedded classification rows at a label fraction: the saved model's test score, and its own estimate.

    python -m tools.bench.adapt_rows [--fraction=0.1] [--draws=3] [--init=FOLDER] [--rows=A,B] [--out=FILE.json]
                                     [--NAME=VALUE of adapt ...]

Each draw's labelled pictures are written as a folder of class folders, adapted to by `adapt_folder`, and the saved
model is scored on the row's test pictures. A class with one labelled picture is left out, and its test pictures count
as wrong; the estimate is held against the score of the other classes. Run it in two checkouts to compare them: the
draws are the same.
"""

import argparse
import collections
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import PIL.Image

import intern_jax
from intern_jax.adapt.folder import adapt_folder
from intern_jax.benchmark import protocol
from intern_jax.data import embedded
from intern_jax.verbs import arguments

ROWS = "emoji_style,emoji_style_group,emoji_concept,clipart_leaf,fashion,furniture"


def main() -> None:
    """Print a line per row and draw, then the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--init")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--out", type=pathlib.Path)
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
    by_row = collections.defaultdict(list)
    for each in found:
        by_row[each["row"]].append(each["test"])
    means = {row: float(np.mean(scores)) for row, scores in by_row.items()}
    held = sum(each["inside"] for each in found)
    print({row: round(mean, 1) for row, mean in means.items()})
    print(
        f"mean over rows {np.mean(list(means.values())):.2f}; {held} of {len(found)} in the interval"
    )
    if args.out:
        args.out.write_text(json.dumps({"runs": found, "means": means}, indent=1) + "\n")


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
