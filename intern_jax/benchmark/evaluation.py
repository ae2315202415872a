"""GV-B on one backbone: from a config and a model folder to records, a table and a page."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from intern_jax.benchmark import heads, runner
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.scores import (
    cells,
    comparison,
    leaderboard,
    lines,
    page,
    record,
    render,
    table,
)
from intern_jax.benchmark.scores.outcomes import Store
from intern_jax.benchmark.scores.replicates import Replicates
from intern_jax.benchmark.settings import Gvb
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import schema
from intern_jax.core.compiled import enable_compilation_cache
from intern_jax.core.config import UserError
from intern_jax.core.files import write_json, write_text
from intern_jax.core.layout import Layout
from intern_jax.core.provenance import made as made_here
from intern_jax.core.versions import versions
from intern_jax.report import gvb as report
from intern_jax.report.parts import provenance
from intern_jax.weights.model import Model
from intern_jax.weights.opening import start

log = logging.getLogger(__name__)

SHOWN = ("Up-G R50", "Up-G MN-B4", "Up-G MN-B15")  # the published rows that a run's own table shows
WIDTH = 100  # of the printed table, in characters


def evaluate(
    config: Any,
    workdir: str | os.PathLike,
    init: str | None = None,
    backbone: str | None = None,
) -> str:
    """Score a frozen backbone on the config's rows; records go to workdir/records. Returns the table.

    `init`: a model folder, a zoo name (random weights), or None for the weights that ship with the package;
    `backbone`: "package.module:function", called without arguments, that returns an intern_jax.weights.model.Model,
    such as intern_jax.load gives.
    A run that was stopped goes on with the first record that is missing. Raises UserError for a mistake in the
    config, and if no named row's data is there, before any work. A row that is missing or breaks does not stop the
    others: table.Incomplete is raised after them.
    """
    settings = schema.checked(Gvb, config, "config")
    _one_of(init, backbone)
    layout = Layout.of(workdir)
    settings["features"] = settings["features"] or str(layout.features)
    settings["lists"] = settings["lists"] or str(layout.lists)
    settings["rows"] = open_rows(settings)
    found = _backbone(init, backbone, settings["seed"])
    for name in settings["rows"]:
        heads.check_readouts(suite.find(name), settings["heads"], found.build, "config.heads")
    label = settings["label"] or found.name
    enable_compilation_cache(layout.make().compiled)
    write_json(layout.config, {"config": settings, "versions": versions()})
    mesh = mesh_lib.make_mesh(devices=jax.local_devices())
    ladder = {label: {"cls": found, "dense": found}}
    missing: dict[str, str] = {}
    runner.run(settings, ladder, settings["seed"], layout, mesh, versions(), missing=missing)
    made = record.read_folder(layout.records)
    # A run of detection rows alone has no table.
    text = tables([workdir], SHOWN) if made else ""
    headless = [
        name
        for name in settings["rows"]
        if name not in missing and not heads.of_row(suite.find(name), settings["heads"])
    ]
    text = "\n".join(filter(None, (text, *cells.needs_boxes(headless, made))))
    if missing:
        raise table.Incomplete("config.rows", missing, text)
    return text


def tables(folders: Sequence[str | os.PathLike], published: bool | Sequence[str] = True) -> str:
    """The text of all records of the workdirs; also writes CSV files and table.html into the first.

    `published`: which published rows the text shows; the files have all of them.
    """
    layouts = [Layout.of(folder) for folder in folders]
    records = [one for layout in layouts for one in record.read_folder(layout.records)]
    if not records:
        raise UserError(f"{folders[0]}: no records; a `benchmark` run with this workdir makes them")
    mini = [one for one in records if one.task not in lines.OF_ROW]
    replicates = Replicates(Store(layout.records for layout in layouts))
    out = layouts[0]
    parts = []
    if len(mini) < len(records):
        write_text(out.table, leaderboard.csv(records))
        seeds = sorted({one.seed for one in records})
        facts = provenance(made_here(), seeds, versions())
        report.write_page(page.page_data(records), out.table_page, facts=facts)
        parts.append(render.text(leaderboard.sheet(records, published), WIDTH))
    if mini:
        write_text(out.mini_table, render.csv(cells.of(mini)))
        parts.append(render.text(table.sheet(mini, replicates)))
    if gains := comparison.of(cells.of(records), replicates):
        write_text(out.gains, comparison.csv(gains))
        parts.append(render.text(comparison.sheet(gains), WIDTH))
    replicates.store.warn()
    return "\n".join(parts)


def open_rows(settings: Mapping[str, Any]) -> list[str]:
    """The rows to score: those that the config names, or all of GV-B's whose data is there.

    Raises UserError if none of them is ready. Of the named ones, the run says at its end which were not.
    """
    if settings["rows"]:
        faults = [fault for name in settings["rows"] if (fault := _fault(name, settings))]
        if len(faults) == len(settings["rows"]):
            raise faults[0]
        return list(settings["rows"])
    ready = []
    for row in suite.gvb.ROWS:
        if fault := _fault(row.name, settings):
            log.info("%s: left out: %s", row.name, fault)
        else:
            ready.append(row.name)
    if not ready:
        raise UserError(
            f"config.data (--data): none of GV-B's data sets is ready below '{settings['data']}'; "
            f"`benchmark --list --data={settings['data']}` says how to get them"
        )
    return ready


def _fault(name: str, settings: Mapping[str, Any]) -> UserError | None:
    """Why a row's data cannot be opened; a name that is no row's raises."""
    row = suite.find(name)
    try:
        for split in ("train", "test"):
            row.load(split, settings["data"])
    except UserError as fault:
        return fault
    return None


def _one_of(init: str | None, function: str | None) -> None:
    if init and function:
        raise UserError("command line: --init and --backbone exclude each other; give one of them")


def _backbone(init: str | None, function: str | None, seed: int) -> Model:
    """The backbone that a command line names."""
    if function:
        made = config_lib.bind({"fn": function})()
        if not isinstance(made, Model):
            raise UserError(
                f"--backbone={function}: returned a {type(made).__name__}; "
                "return an intern_jax.weights.model.Model"
            )
        return made
    return start(init, seed)


def score_boxes(config: Any, workdir: str | os.PathLike, given: Sequence[str]) -> str:
    """Score detectors' boxes, each "ROW=FILE.json" (benchmark/boxes.py), as the config's label, fraction and seed."""
    settings = schema.checked(Gvb, config, "config")
    layout = Layout.of(workdir)
    layout.records.mkdir(parents=True, exist_ok=True)
    for item in given:
        name, found, path = item.partition("=")
        row = suite.find(name, f"--boxes={item}") if found else None
        if row is None or row.task_family.answer != "boxes":
            known = [row.name for row in suite.gvb.ROWS if row.task_family.answer == "boxes"]
            raise UserError(f"--boxes={item}: write ROW=FILE.json, ROW one of {', '.join(known)}")
        if not pathlib.Path(path).is_file():
            raise UserError(f"--boxes={item}: no such file; give a JSON list of boxes")
        bench = runner.RowBench(
            row, settings, settings["seed"], runner.Recorder(layout, versions()), None
        )
        bench.boxes(path, settings["label"] or pathlib.Path(path).stem)
    return tables([workdir], SHOWN)
