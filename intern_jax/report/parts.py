"""What all pages share: their style, and the HTML of headers, sections, tables, plots and legends.

A page is read on a desk and on a phone. What is wider than the page scrolls inside its own box; plots are drawn as wide
as a phone, and stand side by side where there is room.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from intern_jax.core.texts import moment
from intern_jax.report.style import INK, Drawn, Look, data_uri

PAGE_CSS = """
:root { --ink: #1f2933; --muted: #5c6875; --line: #e4e8ec; --accent: #2353b0; --page: #f5f7f9;
  color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 20px 64px; }
header { border-left: 4px solid var(--accent); padding-left: 16px; margin-bottom: 24px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 8px; }
h3 { font-size: 14px; margin: 18px 0 4px; }
p { margin: 0 0 12px; color: var(--muted); max-width: 80ch; }
header p { margin: 0 0 8px; }
p.note { font-size: 13px; margin: 12px 0 0; }
dl.facts { display: flex; flex-wrap: wrap; gap: 2px 24px; margin: 0; font-size: 13px; }
dl.facts div { display: flex; gap: 6px; min-width: 0; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; margin: 0 0 18px; min-width: 0; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll img { max-width: none; width: 100%; }
img { display: block; max-width: 100%; height: auto; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 5px 12px 5px 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; line-height: 1.3; }
td.number, th.number { text-align: right; }
td.text { min-width: 16ch; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; z-index: 1; }
th:last-child, td:last-child { padding-right: 2px; }
tr:last-child td { border-bottom: 0; }
.plots { display: grid; gap: 18px 22px; grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; line-height: 1.35; margin-bottom: 2px; overflow-wrap: anywhere; }
figcaption b { display: block; }
figcaption span { color: var(--muted); }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 14px; margin: 2px 0 6px; padding: 0;
  font-size: 12px; line-height: 1.5; }
ul.legend li { display: flex; align-items: center; gap: 5px; min-width: 0; overflow-wrap: anywhere; }
ul.legend svg { flex: none; }
pre { margin: 8px 0 0; font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-x: auto; }
details { margin-top: 8px; }
summary { cursor: pointer; font-weight: 600; }
code { font: 0.92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 640px) {
  main { padding: 20px 10px 40px; }
  section { padding: 14px 12px; border-radius: 8px; }
  h1 { font-size: 22px; }
  th:first-child, td:first-child { min-width: 15ch; overflow-wrap: anywhere; }
}
@media print { .scroll { overflow: visible; } section { break-inside: avoid; } }
"""
DASHES = {"-": "", "--": "5 3", ":": "1.5 2.5", "none": "0 99"}


def page_html(title: str, lead: str, facts: Mapping[str, str], body: str, css: str = "") -> str:
    """A whole page: a header with the title, a line below it and named facts, and the body, which is HTML."""
    name = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - intern_jax</title>
<style>{PAGE_CSS}{css}</style>
</head>
<body><main>
<header><h1>{name}</h1><p>{html.escape(lead)}</p>{facts_html(facts)}</header>
{body}
</main></body>
</html>
"""


def facts_html(facts: Mapping[str, str]) -> str:
    """Named facts side by side; those that are empty are left out."""
    cells = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts.items()
        if value
    )
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def provenance(
    made: Mapping[str, Any], seeds: Sequence[int], versions: Mapping[str, str]
) -> dict[str, str]:
    """The facts of a page's header: `made` is that of core/provenance.py, or {} of results from before it was kept."""
    host = ", ".join(filter(None, (made.get("host"), made.get("system"), made.get("devices"))))
    return {
        "date": moment(made["date"]) if made.get("date") else "",
        "host": host,
        "version": versions.get("intern_jax", ""),
        "commit": made.get("commit") or "",
        "seeds" if len(seeds) > 1 else "seed": ", ".join(map(str, seeds)),
        "command": made.get("command", ""),
    }


def section_html(title: str, body: str, note: str = "") -> str:
    """A part of the page; the note, which is text, says how to read it and stands below."""
    below = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{body}{below}</section>"


def table_html(
    head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[int] = ()
) -> str:
    """An HTML table in a box that scrolls. `numeric` are the positions of number columns, aligned at the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        out = ""
        for i, cell in enumerate(row):
            kind = ' class="number"' if i in numeric else ""
            out += f"<{tag}{kind}>{_kept_together(html.escape(cell))}</{tag}>"
        return f"<tr>{out}</tr>"

    body = "".join(cells("td", row) for row in rows)
    return scroll_html(f"<table><thead>{cells('th', head)}</thead><tbody>{body}</tbody></table>")


def _kept_together(text: str) -> str:
    """A cell that wraps between its parts, and not inside of "10% (112)" or "3 x 5"."""
    for part in ("% (", " x ", " ↑", " ↓", " ± "):
        text = text.replace(part, part.replace(" ", "&nbsp;"))
    return text


def scroll_html(inner: str) -> str:
    """A box in which what is wider than the page scrolls, also by the keyboard."""
    return f'<div class="scroll" tabindex="0">{inner}</div>'


def image_html(encoded: bytes, alt: str, least: int = 0) -> str:
    """A picture in the page, as wide as it; at least `least` pixels wide, for which it scrolls."""
    image = f'alt="{html.escape(alt, quote=True)}" src="{data_uri(encoded)}"'
    if not least:
        return f"<img {image}>"
    return scroll_html(f'<img style="min-width:{least}px" {image}>')


def plots_html(drawn: Sequence[Drawn], legend: Mapping[str, Look] | None = None) -> str:
    """Plots side by side, as many as there is room for; `legend` is one for all of them."""
    shared = legend_html(legend) if legend else ""
    return f'{shared}<div class="plots">{"".join(map(_figure, drawn))}</div>'


def _figure(drawn: Drawn) -> str:
    said = f"<span>{html.escape(drawn.note)}</span>" if drawn.note else ""
    title = f"<figcaption><b>{html.escape(drawn.title)}</b>{said}</figcaption>"
    image = image_html(drawn.image, f"{drawn.title}: {drawn.note}")
    return f"<figure>{title}{image}{legend_html(drawn.legend)}</figure>"


def legend_html(legend: Mapping[str, Look]) -> str:
    """The names of lines with a piece of each, outside of the plot."""
    items = "".join(f"<li>{_swatch(look)}{html.escape(n)}</li>" for n, look in legend.items())
    return f'<ul class="legend">{items}</ul>' if items else ""


def _swatch(look: Look) -> str:
    color, dash = look.get("color", INK), DASHES[look.get("linestyle", "-")]
    marks = {
        "o": f'<circle cx="12" cy="6" r="3" fill="{color}"/>',
        "s": f'<rect x="9" y="3" width="6" height="6" fill="{color}"/>',
        "D": f'<path d="M12 2l4 4-4 4-4-4z" fill="none" stroke="{color}"/>',
    }
    line = f'stroke="{color}" stroke-width="{look.get("linewidth", 1.6):g}"'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    mark = marks.get(look.get("marker", ""), "")
    return f'<svg width="24" height="12"><path d="M0 6h24" {line}{dashed}/>{mark}</svg>'
