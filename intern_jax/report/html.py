"""report.html of a run: table, label efficiency, learning curves and pictures in one file.

It reads only the files in the run's folder: results.json, the metrics of each stage, and
pictures/*.npz. The page needs no network and no other file.
"""

from __future__ import annotations

import html
import json
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.files import write_text
from intern_jax.core.layout import Layout
from intern_jax.core.texts import duration
from intern_jax.metrics import aggregate
from intern_jax.report import pictures, plots
from intern_jax.report.style import data_uri

PAGE_CSS = """
:root { --ink: #1f2933; --muted: #6b7785; --line: #e4e8ec; --accent: #2353b0; --page: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
header { border-left: 4px solid var(--accent); padding-left: 16px; margin-bottom: 28px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0 0 4px; }
p { margin: 0 0 12px; color: var(--muted); max-width: 75ch; }
header p { margin: 0; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin: 0 0 18px; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; margin: 8px 0 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: 6px 18px 6px 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
td.number, th.number { text-align: right; }
tr:last-child td { border-bottom: 0; }
pre { margin: 8px 0 0; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-x: auto; }
summary { cursor: pointer; font-weight: 600; }
code { font: 0.92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""


def write_report(run_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Write run_dir/report.html from run_dir/results.json and return its path.

    results.json is {"scores": {"head", "rows", "stub", "notes"} (the table's cells), "comparison": the table of gains
    in the same form, "efficiency": [the panels of plots.efficiency_panels], "records": [...], "stages": [{"name",
    "seed", "digest", "seconds", "history": path below run_dir}], "pictures": [{"title", "npz" or "png": path below
    run_dir}], "config": ..., "versions": ..., "seconds": ...}; every part may be missing. Scores are drawn as the parts
    "scores", "comparison" and "efficiency" have them; records are only counted. UserError for a results.json that is
    missing or broken.
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
    name = html.escape(run_dir.resolve().name)
    sections = [
        _sheet("Scores", results.get("scores")),
        _sheet("Gains", results.get("comparison")),
        _efficiency(results),
        *_pictures(run_dir, results),
        _curves(run_dir, results),
        _stages(results),
        _details(results),
    ]
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - intern_jax</title>
<style>{PAGE_CSS}</style>
</head>
<body><main>
<header><h1>{name}</h1><p>{html.escape(_subtitle(results))}</p></header>
{body}
</main></body>
</html>
"""


def _subtitle(results: Mapping[str, Any]) -> str:
    parts = [f"{len(results.get('stages', []))} trained stages"]
    if records := results.get("records"):
        tasks = {record["task"] for record in records}
        parts.append(f"{len(records)} scores on {len(tasks)} tasks")
    if "seconds" in results:
        parts.append(duration(results["seconds"]))
    if version := results.get("versions", {}).get("intern_jax"):
        parts.append(f"intern_jax {version}")
    return " · ".join(parts)


def _sheet(title: str, sheet: Mapping[str, Any] | None) -> str:
    if not sheet or not sheet["rows"]:
        return ""
    body = _table(sheet["head"], sheet["rows"], range(sheet["stub"], len(sheet["head"])))
    return section_html(title, body, " ".join(sheet["notes"]))


def _efficiency(results: Mapping[str, Any]) -> str:
    panels = results.get("efficiency", [])
    labels = [line["label"] for panel in panels for line in panel["lines"]]
    image = plots.efficiency_panels(panels, plots.line_looks(labels), columns=3)
    if image is None:
        return ""
    note = (
        f"Score against the share of labels used. {aggregate.BARS} Dotted: the same network trained from "
        f"scratch on most labels. {plots.FLIPPED}"
    )
    return section_html("Label efficiency", image_html(image, "label efficiency"), note)


def _curves(run_dir: pathlib.Path, results: Mapping[str, Any]) -> str:
    stages = results.get("stages", [])
    several = len({stage.get("seed", 0) for stage in stages}) > 1
    histories, missing = {}, []
    for stage in stages:
        title = f"{stage['name']}, seed {stage.get('seed', 0)}" if several else stage["name"]
        path = _inside(run_dir, stage.get("history"))
        if path is None:
            missing.append(title)
        else:
            histories[title] = plots.read_metrics(path)
    image = plots.learning_curves(histories)
    note = f"No metrics file for: {', '.join(missing)}." if missing else ""
    if image is None:
        return section_html("Learning curves", "", note) if note else ""
    return section_html("Learning curves", image_html(image, "learning curves"), note)


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
        return section_html(title or path.stem, image_html(path.read_bytes(), title or path.stem))
    try:
        arrays = pictures.read(path)
    except UserError as error:
        # The report shows the scores even if a picture is damaged.
        return section_html(title or path.stem, "", str(error))
    title = title or str(arrays.get("title", path.stem.replace("_", " ")))
    return section_html(title, image_html(pictures.render(arrays), title))


def _stages(results: Mapping[str, Any]) -> str:
    stages = results.get("stages", [])
    if not stages:
        return ""
    rows = [
        [
            stage["name"],
            str(stage.get("seed", "")),
            str(stage.get("steps", "")),
            duration(stage["seconds"]) if "seconds" in stage else "",
            str(stage.get("graft", "")),
            stage.get("digest", ""),
        ]
        for stage in stages
    ]
    head = ["stage", "seed", "steps", "time", "starts from", "key"]
    return section_html("Stages", _table(head, rows, numeric=(1, 2)))


def _details(results: Mapping[str, Any]) -> str:
    blocks = []
    for name in ("config", "versions"):
        if name in results:
            text = html.escape(json.dumps(results[name], indent=1))
            blocks.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return section_html("What was run", "\n".join(blocks)) if blocks else ""


def section_html(title: str, body: str, note: str = "") -> str:
    lead = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{lead}{body}</section>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[int] = ()
) -> str:
    """An HTML table; `numeric` are the positions of number columns, which are aligned at the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        out = ""
        for i, cell in enumerate(row):
            kind = ' class="number"' if i in numeric else ""
            out += f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
        return f"<tr>{out}</tr>"

    body = "".join(cells("td", row) for row in rows)
    return f"<table><thead>{cells('th', head)}</thead><tbody>{body}</tbody></table>"


def image_html(encoded: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt, quote=True)}" src="{data_uri(encoded)}">'


def _inside(run_dir: pathlib.Path, name: str | None) -> pathlib.Path | None:
    """The file of that name below run_dir, or None if it is elsewhere: a report shows only its own run."""
    if not name:
        return None
    path = (run_dir / name).resolve()
    return path if path.is_relative_to(run_dir.resolve()) and path.is_file() else None
