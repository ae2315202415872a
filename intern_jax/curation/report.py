"""Step `report`: one HTML page of what a pool holds and what an index leaves out. It needs no other file.

Everything is read from the words and facts of the pool. Only the pictures of the contact sheets are decoded.
"""

import html
import io
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from intern_jax.core.config import formatted
from intern_jax.core.files import write_text
from intern_jax.curation import concepts, indexes
from intern_jax.curation.pictures.look import issues, oddness
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.pool import KEPT, Index, Pool
from intern_jax.report.parts import image_html, page_html, scroll_html, section_html
from intern_jax.version import __version__

CELL, COLUMNS = 64, 16
SHEET = 620  # pixels of a sheet in width at least; on a phone it scrolls
SIDES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
ASPECTS = (1.0, 1.01, 1.1, 1.34, 1.51, 1.79, 2.1, 3.1)
LONGEST = 30  # rows of a table
CSS = """
.bar { display: inline-block; height: 10px; background: var(--accent); border-radius: 2px; margin-right: 8px; }
.columns { display: flex; flex-wrap: wrap; gap: 0 48px; }
td.text { white-space: normal; }
"""


@formatted(1)
def write_report(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    sheet: int = 192,
    seed: int = 0,
) -> pathlib.Path:
    """Write the page to the file `out`, or to report.html in the folder `out`; returns its path.

    `sheet` pictures are drawn of the kept records, and a row of each cause and each issue. The page depends on the
    pool, the index and `seed` alone.
    """
    opened = Pool(pool)
    found = indexes.open_index(opened, index)
    path = pathlib.Path(out)
    path = path if path.suffix == ".html" else path / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _page(opened, found, sheet, seed))
    return path


def _page(pool: Pool, index: Index | None, sheet: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    causes = np.zeros(len(pool), np.uint8) if index is None else np.asarray(index.causes)
    facts = np.concatenate([_small(pool.column(n, "facts")) for n in range(len(pool.counts))])
    kept = np.flatnonzero(causes == KEPT)
    words = _count_words(pool, causes)
    body = [
        section_html("Records", _counts(pool, index)),
        section_html(
            "Kept",
            _sheet(pool, _some(rng, kept, sheet)),
            f"{min(sheet, len(kept))} records at random.",
        ),
        section_html(
            "Pictures", _columns(_sizes(facts[kept])), "Of the kept records, as they came."
        ),
        section_html("Words", _columns(_word_tables(words)), "Of the texts of the kept records."),
        section_html("Origin", _columns(_origins(words)), "Of the kept records."),
        *_issues(pool, facts, kept, rng),
        *_left_out(pool, index, causes, rng),
    ]
    lead = f"{len(pool):,} records, {len(kept):,} kept"
    # No date or host: the same pool, index and seed give the same page.
    source = str(pool.manifest["made"]["source"])
    said = {"packed from": source, "seed": str(seed), "version": __version__}
    return page_html(pool.name, lead, said, "".join(body), CSS)


def _small(facts: np.ndarray) -> np.ndarray:
    """The facts without descriptors, but for their kind, in memory."""
    names = [name for name in facts.dtype.names or () if name != "near"]
    kind = np.dtype([("kind", "u1")])
    out = np.zeros(len(facts), [*((name, facts.dtype[name]) for name in names), ("near", kind)])
    for name in names:
        out[name] = facts[name]
    out["near"]["kind"] = facts["near"]["kind"]
    return out


def _count_words(pool: Pool, causes: np.ndarray) -> dict[str, Counter[str]]:
    out: dict[str, Counter[str]] = {
        name: Counter()
        for name in ("texts", "words", "categories", "source", "licence", "author", "lengths")
    }
    for part in range(len(pool.counts)):
        for _, entry in indexes.kept_words(pool, part, causes):
            texts = entry["texts"]
            out["texts"].update(texts[:1])
            out["words"].update(w for text in texts for w in set(concepts.words(text)))
            out["lengths"][f"{len(texts[0].split()) if texts else 0}"] += 1
            out["categories"].update(entry.get("categories", ()))
            for name in ("source", "licence", "author"):
                out[name][entry.get(name) or "not given"] += 1
    return out


def _counts(pool: Pool, index: Index | None) -> str:
    packed = {k: v for k, v in pool.manifest["counts"].items() if k not in ("read", "records")}
    rows: dict[str, int] = {"read from the source": pool.manifest["counts"]["read"]}
    rows |= {f"not packed: {k}": v for k, v in packed.items()}
    rows["packed"] = len(pool)
    if index is not None:
        rows |= {
            f"left out: {k}": v for k, v in index.content["counts"].items() if v and k != "kept"
        }
        rows["kept"] = index.content["counts"]["kept"]
    return _table(rows.items(), max(rows.values()))


def _sizes(facts: np.ndarray) -> dict[str, str]:
    longer = np.maximum(facts["width"], facts["height"]).astype(np.int64)
    shorter = np.maximum(np.minimum(facts["width"], facts["height"]).astype(np.int64), 1)
    sides = _binned(longer, SIDES, "{} px")
    found = [(name, int(rows.sum())) for name, rows in issues(facts).items()]
    twins = len(facts) - len(np.unique(facts["pixels"], axis=0)) if len(facts) else 0
    return {
        "longer side": _table(sides, len(facts)),
        "longer over shorter side": _table(_binned(longer / shorter, ASPECTS, "{}"), len(facts)),
        "issues": _table([*found, ("pixels of another record", twins)], len(facts)),
    }


def _binned(values: np.ndarray, ends: Sequence[float], form: str) -> list[tuple[str, int]]:
    """Numbers of values up to each end, and above the last."""
    at = np.searchsorted(ends, values, side="left")
    counts = np.bincount(at, minlength=len(ends) + 1)
    names = [f"up to {form.format(end)}" for end in ends] + [f"above {form.format(ends[-1])}"]
    return [(n, int(c)) for n, c in zip(names, counts, strict=True) if c]


def _word_tables(words: Mapping[str, Counter[str]]) -> dict[str, str]:
    several = sum(1 for n in words["texts"].values() if n > 1)
    lengths = sorted(words["lengths"].items(), key=lambda item: int(item[0]))[:LONGEST]
    return {
        f"first texts ({len(words['texts']):,}, {several:,} more than once)": _most(words["texts"]),
        f"words ({len(words['words']):,})": _most(words["words"]),
        "words in the first text": _table(lengths, sum(words["lengths"].values())),
    }


def _origins(words: Mapping[str, Counter[str]]) -> dict[str, str]:
    return {
        f"{title} ({len(words[name]):,})": _most(words[name])
        for name, title in (
            ("source", "sources"),
            ("licence", "licences"),
            ("author", "authors"),
            ("categories", "categories"),
        )
        if words[name]
    }


def _issues(pool: Pool, facts: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> list[str]:
    found = issues(facts[kept])
    out = []
    for name in found:
        rows = kept[found[name]]
        if len(rows):
            out.append(
                section_html(
                    f"Issue: {name}",
                    _sheet(pool, _some(rng, rows, COLUMNS)),
                    f"{len(rows):,} kept records.",
                )
            )
    odd = oddness(facts[kept])
    most = kept[np.lexsort((kept, -odd))[: 2 * COLUMNS]]
    out.append(
        section_html(
            "Odd pictures", _sheet(pool, most), "The kept records that differ most from the others."
        )
    )
    return out


def _left_out(
    pool: Pool, index: Index | None, causes: np.ndarray, rng: np.random.Generator
) -> list[str]:
    if index is None:
        return []
    out = []
    for number, name in enumerate(index.names):
        rows = np.flatnonzero(causes == number)
        if number == KEPT or not len(rows):
            continue
        note = f"{len(rows):,} records, some at random."
        out.append(
            section_html(f"Left out: {name}", _sheet(pool, _some(rng, rows, 2 * COLUMNS)), note)
        )
    return out


def _some(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) <= count else np.sort(rng.choice(rows, count, replace=False))


def _sheet(pool: Pool, rows: Iterable[int]) -> str:
    pictures = [_picture(pool, int(row)) for row in rows]
    if not pictures:
        return "<p>None.</p>"
    return image_html(contact_sheet(pictures), "pictures", SHEET)


def _picture(pool: Pool, row: int) -> np.ndarray:
    try:
        return pool.records[row]["image"]
    except CorruptSample:
        return np.full((CELL, CELL, 3), 255, np.uint8)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = COLUMNS) -> bytes:
    """Pictures side by side, each fitted into a square on a light chequered ground: a PNG."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (CELL + 4), rows * (CELL + 4)), "white")
    squares = (np.indices((CELL, CELL)) // 8).sum(0) % 2
    ground = Image.fromarray(np.where(squares, 244, 232).astype(np.uint8)).convert("RGB")
    for number, picture in enumerate(pictures):
        image = Image.fromarray(picture).convert("RGBA")
        image.thumbnail((CELL, CELL))
        cell = ground.copy()
        cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2), image)
        row, column = divmod(number, columns)
        sheet.paste(cell, (column * (CELL + 4) + 2, row * (CELL + 4) + 2))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=False)
    return file.getvalue()


def _most(counter: Counter[str]) -> str:
    # Equal counts in alphabetical order: the page is the same on every machine.
    most = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:LONGEST]
    return _table(most, most[0][1] if most else 1)


def _table(rows: Iterable[tuple[str, int]], whole: int) -> str:
    lines = []
    for name, count in rows:
        width = round(120 * count / max(whole, 1))
        shown = html.escape(str(name)[:60])
        lines.append(
            f'<tr><td class="text">{shown}</td><td class="number">{count:,}</td>'
            f'<td><span class="bar" style="width:{width}px"></span></td></tr>'
        )
    return scroll_html(f"<table>{''.join(lines)}</table>")


def _columns(tables: Mapping[str, str]) -> str:
    inner = "".join(
        f"<div><h3>{html.escape(name)}</h3>{table}</div>" for name, table in tables.items()
    )
    return f'<div class="columns">{inner}</div>'
