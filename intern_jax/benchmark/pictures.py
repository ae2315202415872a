"""Predictions to look at, as .npz files that the report draws: zero-shot labels, masks, depth.

Legend: N pictures, K classes.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.adapt.cache import Kept
from intern_jax.benchmark import heads
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.runner import Ladder, Recorder, RowBench
from intern_jax.core import config as config_lib
from intern_jax.core.layout import Layout
from intern_jax.core.texts import percent
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.make.views import eval_classification
from intern_jax.data.schema import fingerprints
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.classification import correct
from intern_jax.stages.zero_shot import ZeroShot
from intern_jax.tasks import classification
from intern_jax.tasks import task as tasks
from intern_jax.train.stage import Stage

COUNT = 16  # pictures per file; the report draws as many as fit
WORDS, NEAREST = 6, 6  # classes with the pictures nearest to them


def of_rows(
    cfg: Mapping[str, Any],
    ladder: Ladder,
    seed: int,
    layout: Layout,
    mesh: Any,
    kept: Kept = None,
) -> list:
    """Test pictures with truth and the highest rung's frozen prediction at the middle fraction, one file per row.

    Rows whose answers are classes have none: the zero-shot words show theirs. Neither have rows whose heads all read
    augmented pictures: training one more would take as long as scoring it.
    """
    rung = list(ladder)[-1]
    fraction = sorted(cfg["fractions"])[len(cfg["fractions"]) // 2]
    made = []
    for name in cfg["rows"]:
        row = suite.find(name)
        own = heads.of_row(row, cfg["heads"]).items()
        known = (head for head, settings in own if heads.on_outputs(settings))
        head = next(known, None)
        if row.task_family.answer == "label" or head is None:
            continue
        title = f"{name}: {rung}, frozen, {percent(fraction)} of the labels"
        bench = RowBench(row, cfg, seed, Recorder(layout, {}), mesh, kept)
        seen = bench.seen_by(row.backbone(ladder[rung]))
        rows = bench.subset(fraction, 0)
        key = bench.frozen_key(rung, head, fraction, 0, seen.backbone, rows)
        path = _path(layout, row.name, key)
        if not path.exists():
            fitted = bench.frozen_head(seen, head, rows, 0)
            chosen = _spread(len(bench.test), COUNT)
            arrays = eval_arrays(Subset(bench.test, chosen), config_lib.bind(row.transform()))
            assert fitted.predict is not None  # since it is trained on outputs
            out = fitted.predict(seen.test.take(chosen).features)
            drawn = tasks.find(row.family).picture(out, arrays, bench.train.classes or ())
            kind = row.task_family.answer
            _save(path, {"images": arrays["image"], "title": title, "kind": kind, **drawn})
        made.append({"title": title, "npz": layout.below(path)})
    return made


def zero_shot(
    stage: Stage,
    variables: Mapping[str, Any],
    cfg: Mapping[str, Any],
    transform: Mapping[str, Any],
    layout: Layout,
    stage_key: str,
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """A classification row whose classes are only named: (pictures for the report, top-1 and top-5 of all test rows).

    `cfg` names the row and the prompts, `transform` is that of the stage's pairs. One file shows pictures with their
    three best classes, the other shows classes with the pictures nearest to them. `stage_key` tells what the stage
    learnt from; of another key the files are made anew.
    """
    row = suite.find(cfg["row"])
    source, size = row.load("test"), transform["size"]
    facts = {"stage": stage_key, "size": size, "test": fingerprints.of_examples(source)}
    facts |= {"templates": cfg["templates"], "format": 2}
    paths = [_path(layout, f"{kind}_{row.name}", facts) for kind in ("zero_shot", "nearest")]
    if not all(path.exists() for path in paths):
        view = functools.partial(eval_classification, size=size)
        tokenizer, context = transform.get("tokenizer", "embedded"), transform["context"]
        run = ZeroShot(
            stage, {row.name: (source, view)}, cfg["templates"], None, tokenizer, context
        )
        batches = list(run.scores(run.placed(variables), row.name))
        scores, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        _draw_zero_shot(paths, run.names[row.name], source, view, scores, labels)
    with np.load(paths[0]) as file:
        found = {name: float(file[name]) for name in ("top1", "top5")}
    about = f"top-1 {found['top1']:.1%}, top-5 {found['top5']:.1%}"
    titles = (
        f"{row.name}: zero-shot words of the {stage.name} ({about})",
        f"{row.name}: words and the pictures nearest to them",
    )
    made = [
        {"title": title, "npz": layout.below(path)}
        for title, path in zip(titles, paths, strict=True)
    ]
    facts = {"stage": stage.name, "row": row.name, "templates": cfg["templates"]}
    return made, facts | {"test": len(source)} | found


def _draw_zero_shot(
    paths: Sequence[pathlib.Path],
    names: Sequence[str],
    source: Any,
    view: Callable[..., Any],
    scores_NxK: np.ndarray,
    labels_N: np.ndarray,
) -> None:
    """Write both files: some pictures with their best classes, some classes with their best pictures."""
    some = _spread(len(source), COUNT)
    arrays = eval_arrays(Subset(source, some), view)
    right = {f"top{k}": correct(scores_NxK, labels_N, k).mean() for k in (1, 5)}
    drawn = classification.words(scores_NxK[some], labels_N[some], names)
    _save(paths[0], {"images": arrays["image"], "kind": "label", **drawn, **right})
    asked = _spread(len(names), WORDS)
    best = np.argsort(-scores_NxK[:, asked], axis=0, kind="stable")[:NEAREST].T
    arrays = eval_arrays(Subset(source, best.ravel()), view)
    nearest = {
        "texts": np.array(names)[asked],
        "scores": np.take_along_axis(scores_NxK[:, asked].T, best, axis=1),
        "right": labels_N[best] == asked[:, None],
    }
    _save(paths[1], {"images": arrays["image"], "kind": "nearest", **nearest})


def _path(layout: Layout, name: str, key: Mapping[str, Any]) -> pathlib.Path:
    return layout.pictures / f"{name}-{config_lib.digest(key)[:12]}.npz"


def _spread(length: int, count: int) -> np.ndarray:
    """Indices spread evenly over a split, which lies sorted by class or file."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


def _save(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    made: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(temporary, **made)
    temporary.replace(path)
