"""Predictions to look at, as .npz files that the report draws: zero-shot labels, masks, depth."""

import pathlib
from collections.abc import Mapping
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
from intern_jax.data.make import text as tokenizer_lib
from intern_jax.data.make.views import eval_classification
from intern_jax.data.schema import fingerprints
from intern_jax.data.sources.subset import Subset
from intern_jax.tasks import classification
from intern_jax.tasks import task as tasks

COUNT = 16  # pictures per file; the report draws as many as fit


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
        known = (head for head in heads.of_row(row, cfg["heads"]) if heads.on_outputs(row, head))
        head = next(known, None)
        if row.task_family.answer == "label" or head is None:
            continue
        title = f"{name}: {rung}, frozen, {percent(fraction)} of the labels"
        bench = RowBench(row, cfg, seed, Recorder(layout, {}), mesh, kept)
        seen = bench.seen_by(ladder[rung][row.branch])
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
    stage: Any,
    params: Any,
    extra: Any,
    row_name: str,
    size: int,
    context: int,
    layout: Layout,
    stage_key: str,
) -> list:
    """Test pictures of a classification row with the three best of the class names as texts.

    `stage_key` tells what the stage learnt from; of another key a file is made anew.
    """
    row = suite.find(row_name)
    source = row.load("test")
    facts = {"stage": stage_key, "size": size, "test": fingerprints.of_examples(source)}
    path = _path(layout, f"zero_shot_{row_name}", facts)
    title = f"{row_name}: zero-shot words of the amateur"
    if not path.exists():
        chosen = Subset(source, _spread(len(source), COUNT))
        arrays = eval_arrays(chosen, lambda s, rng: eval_classification(s, rng, size=size))
        words = tokenizer_lib.load("embedded")
        names = [name.replace("-", " ") for name in source.classes]
        tokens = np.stack([words.encode(name, context) for name in names])
        out = stage.predict(params, extra, {"image": arrays["image"], "tokens": tokens})
        similarity = np.asarray(out["image"] @ out["text"].T)
        drawn = classification.words(similarity, arrays["label"], names)
        _save(path, {"images": arrays["image"], "title": title, "kind": "label", **drawn})
    return [{"title": title, "npz": layout.below(path)}]


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
