"""GV-B's results as one HTML page: the wide table, ours against a published row, and label efficiency.

The page holds its plots, needs no network, and links to nothing but the paper.
"""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from intern_jax.core.files import write_text
from intern_jax.metrics import aggregate
from intern_jax.report import parts, plots
from intern_jax.report.parts import image_html, legend_html, section_html

_CSS = """
.wide { border-top: 1px solid var(--line); }
.wide table { border-collapse: separate; border-spacing: 0; font-size: 13px; }
.wide th, .wide td { padding: 5px 10px; text-align: right; vertical-align: baseline; }
.wide tr:last-child td { border-bottom: 1px solid var(--line); }
.wide th:first-child { position: sticky; left: 0; z-index: 1; text-align: left; background: #fff;
  padding-left: 2px; border-right: 1px solid var(--line); }
.wide thead th { vertical-align: bottom; border-bottom: 0; line-height: 1.3; }
.wide thead tr:last-child th { border-bottom: 1px solid var(--line); }
.wide thead th.family, .wide td.first, .wide thead th.first { border-left: 1px solid #c3cad1; }
.wide thead th.family { text-align: left; color: var(--ink); }
.wide thead small { font-weight: 400; }
.wide tbody th { color: var(--ink); font-weight: 500; max-width: 260px; white-space: normal;
  overflow-wrap: anywhere; }
.wide tbody th small { display: block; color: var(--muted); font-weight: 400; }
.wide td small { display: block; color: var(--muted); }
.wide td.best b { color: var(--accent); }
.wide td.none { color: #98a2ad; }
.wide tr.group th { background: #fff; color: var(--muted); font-weight: 600; padding-top: 14px;
  border-right: 0; white-space: nowrap; overflow-wrap: normal; }
.wide tbody.published td, .wide tbody.published th { background: #f3f1ea; }
.radar { max-width: 820px; }
footer p { font-size: 13px; }
footer a { color: var(--accent); }
"""
RADAR = 520  # pixels of its width at least; on a phone it scrolls
_ARXIV = "https://arxiv.org/abs/2111.08687"
_TABLE = (
    "Blue and bold: the best of its group in its column. Below a score, its spread and in brackets "
    "the standard error over test images; below that, the numbers of training labels and of test images. "
    "Shaded: published, not measured here."
)
_RADAR = (
    "At {fraction} of the labels. Each axis is the score divided by that of {against}, published; where "
    "lower is better, the other way round. Further out is always better, and {against} is the "
    "circle at 1. A data set of several figures has the mean of their ratios. Values past {top:g} "
    "are drawn at {top:g}; a gap is a data set without a score."
)
_EFFICIENCY = (
    "Score over the share of the training labels. {bars} A method's first head bears its name "
    "alone. Diamond: {against}, published. {flipped}"
)


def write_page(
    data: Mapping[str, Any],
    out: str | os.PathLike[str],
    title: str = "GV-B",
    facts: Mapping[str, str] | None = None,
) -> pathlib.Path:
    """Write the page of `data` (from benchmark/scores/page.py) to the file `out`, and return its path.

    `facts` stand in its header: parts.provenance makes them.
    """
    out = pathlib.Path(out)
    write_text(out, page(data, title, facts))
    return out


def page(
    data: Mapping[str, Any], title: str = "GV-B", facts: Mapping[str, str] | None = None
) -> str:
    """The whole page as HTML."""
    panels, radar = data["efficiency"]["panels"], data["radar"]
    labels = [
        line["label"] for drawn in [radar or {"lines": []}, *panels] for line in drawn["lines"]
    ]
    looks = plots.line_looks(labels)
    sections = [
        section_html("Results", _table(data), _TABLE),
        _radar(radar, looks),
        _efficiency(data["efficiency"], looks),
        section_html("How to read it", "".join(f"<p>{html.escape(n)}</p>" for n in data["notes"])),
    ]
    footer = f'<footer><p>GV-B: the benchmark of INTERN, <a href="{_ARXIV}">arXiv 2111.08687</a>.</p></footer>'
    return parts.page_html(title, _subtitle(data), facts or {}, "".join([*sections, footer]), _CSS)


def _subtitle(data: Mapping[str, Any]) -> str:
    ours = [row for group in data["groups"] if not group["published"] for row in group["rows"]]
    figures = [_spans(data)[i] for row in ours for i, cell in enumerate(row["cells"]) if cell]
    count = len(set(figures))
    return f"General Vision Benchmark · {count} of {len(data['columns'])} data sets scored"


def _spans(data: Mapping[str, Any]) -> list[int]:
    """For each cell of a row, the number of its data set."""
    return [i for i, column in enumerate(data["columns"]) for _ in column["figures"]]


def _table(data: Mapping[str, Any]) -> str:
    body = "".join(_group(data, group) for group in data["groups"])
    return f'<div class="scroll wide" tabindex="0"><table><thead>{_head(data)}</thead>{body}</table></div>'


def _head(data: Mapping[str, Any]) -> str:
    """Three head rows: families, data sets and metrics; a mean follows the columns over which it is taken."""
    columns, average, unit = data["columns"], data["average"], html.escape(data["average"]["unit"])
    families, titles, figures = ["<th></th>"], ["<th></th>"], ["<th></th>"]
    for family in dict.fromkeys(column["family"] for column in columns):
        own = [column for column in columns if column["family"] == family]
        width = sum(len(column["figures"]) for column in own)
        for i, column in enumerate(own):
            first = ' class="first"' if i == 0 else ""
            name = html.escape(column["title"])
            titles.append(f'<th{first} colspan="{len(column["figures"])}">{name}</th>')
            for j, figure in enumerate(column["figures"]):
                first = ' class="first"' if i == j == 0 else ""
                text = "<br>".join(html.escape(t) for t in (figure, column["unit"]) if t)
                figures.append(f"<th{first}><small>{text}</small></th>")
        if family == columns[average["after"] - 1]["family"]:
            titles.append(f"<th>{html.escape(average['title'])}</th>")
            figures.append(f"<th><small>{unit}</small></th>")
            width += 1
        families.append(f'<th class="family" colspan="{width}">{html.escape(family)}</th>')
    return "".join(f"<tr>{''.join(row)}</tr>" for row in (families, titles, figures))


def _group(data: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    spans = _spans(data)
    kind = ' class="published"' if group["published"] else ""
    title = f'<tr class="group"><th>{html.escape(group["title"])}</th>'
    title += f'<td colspan="{len(spans) + 1}"></td></tr>'
    rows = "".join(f"<tr>{_label(row)}{''.join(_cells(data, row))}</tr>" for row in group["rows"])
    return f"<tbody{kind}>{title}{rows}</tbody>"


def _label(row: Mapping[str, Any]) -> str:
    heads = f"<small>{html.escape(row['heads'])}</small>" if row["heads"] else ""
    return f'<th scope="row">{html.escape(row["label"])}{heads}</th>'


def _cells(data: Mapping[str, Any], row: Mapping[str, Any]) -> Iterable[str]:
    families = [data["columns"][i]["family"] for i in _spans(data)]
    after = sum(len(column["figures"]) for column in data["columns"][: data["average"]["after"]])
    for i, (family, cell) in enumerate(zip(families, row["cells"], strict=True)):
        kinds = ["first"] if i == 0 or family != families[i - 1] else []
        if cell is None:
            missing = data["columns"][_spans(data)[i]]["missing"]
            yield _cell([*kinds, "none"], html.escape(missing or "-"))
        else:
            score = html.escape(cell["score"])
            score = f"<b>{score}</b>" if cell["best"] else score
            below = [html.escape(cell[name]) for name in ("spread", "numbers") if cell[name]]
            small = "".join(f"<small>{text}</small>" for text in below)
            yield _cell([*kinds, "best"] if cell["best"] else kinds, score + small)
        if i + 1 == after:
            yield _cell([], html.escape(row["mean"]))


def _cell(kinds: list[str], inner: str) -> str:
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{named}>{inner}</td>"


def _radar(data: Mapping[str, Any] | None, looks: plots.Looks) -> str:
    title = "Against a published row"
    drawn = plots.radar(data, looks) if data else None  # None where there is no line
    if data is None or drawn is None:
        note = "Drawn where a method has three or more data sets at the published share of labels."
        return section_html(title, "", note)
    against = data["against"].rstrip("†")
    note = _RADAR.format(fraction=data["fraction"], against=against, top=plots.RADAR_TOP)
    image = image_html(drawn.image, f"{title}: radar", RADAR)
    return section_html(title, f'<div class="radar">{image}</div>{legend_html(drawn.legend)}', note)


def _efficiency(data: Mapping[str, Any], looks: plots.Looks) -> str:
    drawn, legend = plots.efficiency_panels(data["panels"], looks, data["against"])
    if not drawn:
        return ""
    against = data["against"].rstrip("†")
    note = _EFFICIENCY.format(bars=aggregate.BARS, against=against, flipped=plots.FLIPPED)
    return section_html("Label efficiency", parts.plots_html(drawn, legend), note)
