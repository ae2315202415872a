"""A model with a text tower, and nothing learnt: zero-shot accuracy on rows whose classes are named, and retrieval."""

from __future__ import annotations

import functools
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from intern_jax.benchmark.evaluation import open_rows
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.settings import Gvb
from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json
from intern_jax.core.versions import versions
from intern_jax.data.open.opening import open_data
from intern_jax.metrics.classification import wilson_interval
from intern_jax.stages.held_out_pairs import Opened
from intern_jax.stages.retrieval import Retrieval
from intern_jax.stages.zero_shot import ZeroShot
from intern_jax.tasks import prompts
from intern_jax.weights import preprocess
from intern_jax.weights.folder import load_model

log = logging.getLogger(__name__)
FILE, RETRIEVAL = "zero_shot.json", "retrieval.json"  # in the workdir


def score(
    config: Any,
    init: str | os.PathLike[str] | None,
    templates: str | Sequence[str],
    workdir: str | os.PathLike[str] | None = None,
) -> str:
    """A table of top-1 and top-5 on the test images of the config's classification rows; also a file in the workdir.

    `init`: a model folder with a text tower. It reads each picture as its own preprocessing says. `templates`: a set of
    prompts (tasks/prompts.py) or texts with a {}. A row whose classes have no words is left out and named.
    """
    settings = schema.checked(Gvb, config, "config")
    forms = prompts.templates(templates, "--words")
    stage = _opened(init, "--words")
    view = functools.partial(preprocess.classification, **stage.model.preprocess.plain)
    named = [n for n in open_rows(settings) if suite.find(n).task_family.answer == "label"]
    if not named:
        raise UserError("config.rows: none is of classification; name one, such as pets")
    found: dict[str, dict[str, Any]] = {}
    for name in named:
        source = suite.find(name).load("test", settings["data"])
        try:
            run = ZeroShot(stage, {name: (source, view)}, list(forms))
        except UserError as fault:
            log.warning("%s: left out: %s", name, fault)
            continue
        measures = run(stage.variables)
        top1, top5 = (measures[f"{name}/top{k}"] for k in (1, 5))
        low, high = wilson_interval(round(top1 * len(source)), len(source))
        found[name] = {"top1": top1, "top5": top5, "interval": [low, high], "test": len(source)}
    if not found:
        raise UserError(
            "config.rows: no row's classes have words; see the lines above, or name another"
        )
    _write(workdir, FILE, stage, {"templates": list(forms), "rows": found})
    lines = ["row  top-1  95% interval  top-5  test images"]
    for name, row in found.items():
        shares = (row["top1"], *row["interval"], row["top5"])
        one, least, most, five = (f"{share:.1%}" for share in shares)
        lines.append(f"{name}  {one}  {least} to {most}  {five}  {row['test']:,}")
    return "\n".join(lines)


def retrieve(
    data: str | os.PathLike[str],
    init: str | os.PathLike[str] | None,
    workdir: str | os.PathLike[str] | None = None,
) -> str:
    """A table of R@1, 5 and 10 both ways on pictures with texts, all of them; also a file in the workdir.

    `data`: what open_data (data/open/opening.py) reads. A picture may have several texts, and each counts. `init` is
    as in `score`.
    """
    stage = _opened(init, "--pairs")
    source = open_data(data)
    view = functools.partial(preprocess.picture, **stage.model.preprocess.plain)
    run = Retrieval(stage, {"pairs": (source, view)})
    found = {name.removeprefix("pairs/"): share for name, share in run(stage.variables).items()}
    _write(workdir, RETRIEVAL, stage, {"data": str(data), "pictures": len(source), "recall": found})
    lines = [f"{len(source):,} pictures  R@1  R@5  R@10"]
    for title, way in (("texts of pictures", "i2t"), ("pictures of texts", "t2i")):
        lines.append("  ".join([title, *(f"{found[f'{way}_r{k}']:.1%}" for k in (1, 5, 10))]))
    return "\n".join(lines)


def _opened(init: str | os.PathLike[str] | None, flag: str) -> Opened:
    if init is None:
        raise UserError(f"{flag}: needs --init, a model folder with a text tower")
    return Opened(load_model(init))


def _write(
    workdir: str | os.PathLike[str] | None, file: str, stage: Opened, found: dict[str, Any]
) -> None:
    if workdir is not None:
        path = pathlib.Path(workdir) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"model": stage.model.name, "versions": versions()} | found)
