"""Zero-shot accuracy of a model with a text tower on the classification rows, whose classes are only named."""

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
from intern_jax.core.texts import percent
from intern_jax.core.versions import versions
from intern_jax.metrics.classification import wilson_interval
from intern_jax.stages.held_out_pairs import Opened
from intern_jax.stages.zero_shot import ZeroShot
from intern_jax.tasks import prompts
from intern_jax.weights import preprocess
from intern_jax.weights.folder import load_model

log = logging.getLogger(__name__)
FILE = "zero_shot.json"  # in the workdir


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
    if init is None:
        raise UserError("--words: needs --init, a model folder with a text tower")
    stage = Opened(load_model(init))
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
    if workdir is not None:
        facts = {"model": stage.model.name, "templates": list(forms), "versions": versions()}
        path = pathlib.Path(workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts | {"rows": found})
    lines = ["row  top-1  95% interval  top-5  test images"]
    for name, row in found.items():
        low, high = row["interval"]
        interval = f"{percent(low)} to {percent(high)}"
        lines.append(
            f"{name}  {percent(row['top1'])}  {interval}  {percent(row['top5'])}  {row['test']:,}"
        )
    return "\n".join(lines)
