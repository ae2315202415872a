"""Which readout a probe should have: cross-validation on labelled training pictures alone, no test picture is read.

    python -m tools.bench.readouts [--backbones=default,random,FOLDER] [--fractions=0.1,1.0] [--draws=3]
        [--readouts=pooled,layers,grids] [--out=FILE]

Per backbone, row and draw each readout's probe is fitted with its own l2; its score and cross-entropy are those of the
held-out folds. A generalist stands for networks of several branches.
"""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import fit_probe
from intern_jax.benchmark import protocol
from intern_jax.benchmark.rows import suite
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.texts import percent
from intern_jax.models.heads import readout
from intern_jax.weights.model import Model
from intern_jax.weights.opening import start
from tools.bench import measured
from tools.bench.measured import Measured

ROWS = "emoji_style,emoji_style_group,emoji_concept,clipart_leaf,fashion,furniture"


def main() -> None:
    """Print each fit, then each backbone's means over rows and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", default="default,random")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--fractions", default="0.1")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--readouts", default=",".join(readout.NAMES))
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    given, found = measured.provenance("tools.bench.readouts"), []
    for name in args.backbones.split(","):
        for row in args.rows.split(","):
            found += of_row(backbone_of(name), name, row, args)
    made = table(found, given, args)
    print(made.markdown())
    if args.out:
        made.write(args.out)


def table(
    found: list[dict[str, Any]], given: Mapping[str, Any], args: argparse.Namespace
) -> Measured:
    """A line per backbone, share of the labels and readout: means over rows and draws."""
    rows = []
    for name in args.backbones.split(","):
        for fraction in map(float, args.fractions.split(",")):
            for way in args.readouts.split(","):
                place = (name, fraction, way)
                own = [r for r in found if (r["backbone"], r["fraction"], r["readout"]) == place]
                score, loss = (float(np.mean([r[f] for r in own])) for f in ("score", "loss"))
                rows.append([name, percent(fraction), way, own[0]["features"], score, loss])
    return Measured(
        **given,
        title="Readouts of a probe, by cross-validation on training labels",
        columns=(
            {"name": "backbone"},
            {"name": "labels"},
            {"name": "readout"},
            {"name": "features"},
            {"name": "right", "unit": "%", "digits": 1},
            {"name": "cross-entropy", "digits": 3},
        ),
        key=3,
        rows=rows,
        notes=[f"Means over {args.rows.replace(',', ', ')}, and {args.draws} draws of the labels."],
        raw={"fits": found},
    )


def backbone_of(name: str) -> Model:
    """The weights that ship, the same network untrained, or a model folder."""
    model = start(None if name in ("default", "random") else name)
    return Model.random(model.spec, 0) if name == "random" else model


def of_row(
    model: Model, name: str, row_name: str, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """All readouts, fractions and draws of one row."""
    row = suite.find(row_name)
    source = row.load("train")
    seen = cached(
        model,
        source,
        row.transform(),
        task=row.family,
        outputs=tuple(args.readouts.split(",")),
        mesh=mesh_lib.make_mesh(data=1),
    )
    found = []
    for fraction in map(float, args.fractions.split(",")):
        for draw in range(1 if fraction == 1 else args.draws):
            rows = protocol.subset(source.keys, source.labels, fraction, draw)
            folds = protocol.folds(rows, source.keys, source.labels, draw)
            for way in args.readouts.split(","):
                fitted = fit_probe(
                    seen[way], source.labels, len(source.classes), rows=rows, folds=folds
                )
                facts = {"backbone": name, "row": row_name, "fraction": fraction, "draw": draw}
                numbers = {
                    "l2": fitted.l2,
                    "score": fitted.validation_score,
                    "loss": fitted.validation_loss,
                }
                found.append(facts | {"readout": way, "features": seen[way].shape[1]} | numbers)
                print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    main()
