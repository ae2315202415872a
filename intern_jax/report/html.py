"""report.html of a run: table, label efficiency, learning curves and pictures in one file.

It reads only the files in the run's folder: results.json, the metrics of each stage, and
pictures/*.npz. The page needs no network and no other file.
"""

from __future__ import annotations

import html
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from intern_jax.core import scalars, strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_text
from intern_jax.core.layout import Layout, StageFiles
from intern_jax.core.texts import duration
from intern_jax.metrics import aggregate
from intern_jax.report import parts, pictures, plots
from intern_jax.report.parts import image_html, section_html, table_html
from intern_jax.report.style import Drawn

LEAST = 620  # pixels of a grid of pictures; on a phone it scrolls


def write_report(run_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Write run_dir/report.html from run_dir/results.json and return its path.

    results.json is {"scores": {"head", "rows", "stub", "notes"} (the table's cells), "comparison": the table of gains
    in the same form, "efficiency": [the panels of plots.efficiency_panels], "records": [...], "stages": [{"name",
    "seed", "digest", "seconds", "history": path below run_dir}], "pictures": [{"title", "npz" or "png": path below
    run_dir}], "config": ..., "versions": ..., "made": that of core/provenance.py, "seconds": ...}; every part may be
    missing. Scores are drawn as the parts "scores", "comparison" and "efficiency" have them; records are only counted.
    UserError for a results.json that is missing or broken.
    """
    run_dir = pathlib.Path(run_dir)
    layout = Layout.of(run_dir)
    path = layout.results
    if not path.exists():
        raise UserError(f"{path}: no such file; a finished `run` writes it")
    results = strict_json.read(path, "run again to write it anew")
    out = layout.report
    write_text(out, page(run_dir, results))
    return out


def page(run_dir: pathlib.Path, results: Mapping[str, Any]) -> str:
    """The whole page as HTML."""
    sections = [
        _sheet("Scores", results.get("scores")),
        _sheet("Gains", results.get("comparison")),
        _efficiency(results),
        *_pictures(run_dir, results),
        _curves(run_dir, results),
        _stages(run_dir, results),
        _details(results),
    ]
    seeds = results.get("config", {}).get("seeds", [])
    facts = parts.provenance(results.get("made", {}), seeds, results.get("versions", {}))
    body = "\n".join(section for section in sections if section)
    return parts.page_html(run_dir.resolve().name, _subtitle(results), facts, body)


def _subtitle(results: Mapping[str, Any]) -> str:
    count = len(results.get("stages", []))
    found = [f"{count} trained {'stage' if count == 1 else 'stages'}"]
    if records := results.get("records"):
        tasks = {record["task"] for record in records}
        found.append(f"{len(records)} scores on {len(tasks)} tasks")
    if "seconds" in results:
        found.append(duration(results["seconds"]))
    return " · ".join(found)


def _sheet(title: str, sheet: Mapping[str, Any] | None) -> str:
    if not sheet or not sheet["rows"]:
        return ""
    body = table_html(sheet["head"], sheet["rows"], range(sheet["stub"], len(sheet["head"])))
    return section_html(title, body, " ".join(sheet["notes"]))


def _efficiency(results: Mapping[str, Any]) -> str:
    panels = results.get("efficiency", [])
    labels = [line["label"] for panel in panels for line in panel["lines"]]
    drawn, legend = plots.efficiency_panels(panels, plots.line_looks(labels))
    if not drawn:
        return ""
    note = (
        f"Score against the share of labels used. {aggregate.BARS} Dotted: the same network trained from "
        f"scratch on most labels. {plots.FLIPPED}"
    )
    return section_html("Label efficiency", parts.plots_html(drawn, legend), note)


def _curves(run_dir: pathlib.Path, results: Mapping[str, Any]) -> str:
    blocks, missing, silent = [], [], []
    for title, path in _histories(run_dir, results):
        if path is None:
            missing.append(title)
            continue
        series, known = plots.read_metrics(path), scalars.read(StageFiles(path.parent).scalars)
        known = {scalars.TOTAL: scalars.TERM, **known}
        silent += [
            Drawn(f"{title}: {one.title}", one.image) for one in plots.undescribed(series, known)
        ]
        if drawn := plots.learning_curves(series, known):
            blocks.append(f"<h3>{html.escape(title)}</h3>{parts.plots_html(drawn)}")
    if silent:
        count = f"{len(silent)} scalars that say neither what they are nor which way is better"
        inner = parts.plots_html(silent)
        blocks.append(f"<details><summary>{count}</summary>{inner}</details>")
    note = f"No metrics file for: {', '.join(missing)}." if missing else ""
    return section_html("Learning curves", "".join(blocks), note) if blocks or note else ""


def _histories(
    run_dir: pathlib.Path, results: Mapping[str, Any]
) -> Iterable[tuple[str, pathlib.Path | None]]:
    """For each stage its title and its metrics file, None if that is not there."""
    stages = results.get("stages", [])
    several = len({stage.get("seed", 0) for stage in stages}) > 1
    for stage in stages:
        title = f"{stage['name']}, seed {stage.get('seed', 0)}" if several else stage["name"]
        yield title, _inside(run_dir, stage.get("history"))


def _pictures(run_dir: pathlib.Path, results: Mapping[str, Any]) -> Iterable[str]:
    listed = set()
    for entry in results.get("pictures", []):
        path = _inside(run_dir, entry.get("npz") or entry.get("png"))
        if path is None:
            yield section_html(entry.get("title", "Pictures"), "", "The picture file is missing.")
            continue
        listed.add(path)
        yield _picture(path, entry.get("title"))
    for path in sorted(Layout.of(run_dir).pictures.glob("*.npz")):
        if path.resolve() not in listed and not path.name.endswith(".tmp.npz"):
            yield _picture(path, None)


def _picture(path: pathlib.Path, title: str | None) -> str:
    if path.suffix == ".png":
        return section_html(
            title or path.stem, image_html(path.read_bytes(), title or path.stem, LEAST)
        )
    try:
        arrays = pictures.read(path)
    except UserError as error:
        # The report shows the scores even if a picture is damaged.
        return section_html(title or path.stem, "", str(error))
    title = title or str(arrays.get("title", path.stem.replace("_", " ")))
    return section_html(title, image_html(pictures.render(arrays), title, LEAST))


def _stages(run_dir: pathlib.Path, results: Mapping[str, Any]) -> str:
    stages = results.get("stages", [])
    if not stages:
        return ""
    rows = []
    for stage, (_, path) in zip(stages, _histories(run_dir, results), strict=True):
        took = duration(stage["seconds"]) if "seconds" in stage else ""
        told = [str(stage.get(name, "")) for name in ("seed", "steps", "bad_steps")]
        rates = _rates(plots.read_metrics(path) if path else {})
        rows.append(
            [
                stage["name"],
                *told,
                took,
                *rates,
                stage.get("digest", ""),
                str(stage.get("graft", "")),
            ]
        )
    head = ["stage", "seed", "steps", "bad steps", "time", "images per second", "waits for data"]
    return section_html("Stages", table_html([*head, "key", "starts from"], rows, range(1, 7)))


def _rates(series: plots.Series) -> tuple[str, str]:
    """The medians of images per second and of the share of time that a stage waited for data."""

    def median(name: str) -> float | None:
        return float(np.median(series[name][1])) if name in series else None

    speed, wait = median("images_per_second"), median("data_wait")
    return "" if speed is None else f"{speed:,.0f}", "" if wait is None else f"{wait:.1%}"


def _details(results: Mapping[str, Any]) -> str:
    blocks = []
    for name in ("config", "versions"):
        if name in results:
            text = html.escape(json.dumps(results[name], indent=1))
            blocks.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return section_html("What was run", "\n".join(blocks)) if blocks else ""


def _inside(run_dir: pathlib.Path, name: str | None) -> pathlib.Path | None:
    """The file of that name below run_dir, or None if it is elsewhere: a report shows only its own run."""
    if not name:
        return None
    path = (run_dir / name).resolve()
    return path if path.is_relative_to(run_dir.resolve()) and path.is_file() else None
