"""Step `card`: CARD.md of a pool and an index: what it is, whose it is, what was left out, what it may be scored on."""

import json
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from intern_jax.core.config import formatted
from intern_jax.core.files import write_text
from intern_jax.curation import indexes
from intern_jax.data.sources.pool import Index, Pool


@formatted(1)
def write_card(
    pool: str | os.PathLike[str],
    out: str | os.PathLike[str],
    index: str | os.PathLike[str] | None = None,
    about: str = "",
) -> pathlib.Path:
    """Write the card to the file `out`, or to CARD.md in the folder `out`; returns its path.

    `about` is what a person says of the set: its first paragraph. Every source is listed with its licence and author,
    as licences such as CC-BY ask.
    """
    opened = Pool(pool)
    found = indexes.open_index(opened, index)
    path = pathlib.Path(out)
    path = path if path.suffix == ".md" else path / "CARD.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        f"# {opened.name}",
        about,
        _counts(opened, found),
        _splits(opened, found),
        _trust(found),
    ]
    parts += [_origins(opened, found), _made(opened, found)]
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def _counts(pool: Pool, index: Index | None) -> str:
    counts = pool.manifest["counts"]
    rows = [("read from the source", counts["read"])]
    rows += [(f"not packed: {k}", v) for k, v in counts.items() if k not in ("read", "records")]
    if index is not None:
        left = index.content["counts"]
        rows += [(f"left out: {k}", v) for k, v in left.items() if v and k != "kept"]
        rows.append(("kept", left["kept"]))
    else:
        rows.append(("packed", len(pool)))
    return "## Records\n\n" + _table(("records", "number"), rows)


def _splits(pool: Pool, index: Index | None) -> str:
    if index is None or "splits" not in index.content:
        return ""
    causes = indexes.causes_of
    rows = [(name, int((causes(pool, index, name) == 0).sum())) for name in index.content["splits"]]
    text = "## Splits\n\n" + _table(("split", "kept records"), rows)
    made = index.content.get("rows", {})
    cut = [(name, *facts.values()) for name, facts in made.items() if facts["classes"]]
    if cut:
        text += "\n\n" + _table(("benchmark row", "classes", "train", "test"), cut)
    makers, held = index.content.get("held_out_makers", []), index.content.get("held_out", [])
    text += f"\n\nHeld-out makers ({len(makers)}): {', '.join(makers)}."
    return text + f"\n\nHeld-out concepts ({len(held)}): {', '.join(held)}."


def _trust(index: Index | None) -> str:
    content: Mapping = {} if index is None else index.content
    judged = content.get("decontaminated", {})
    rows = [(n, f["pictures"], f["split"] or "all", f["digest"]) for n, f in judged.items()]
    if not rows:
        return (
            "## Contamination\n\nThis set was compared with no benchmark's test pictures. No concept was held out by"
            " name."
        )
    text = "## Contamination\n\nNo kept record of the split is a near-duplicate of a test picture of the row:\n\n"
    text += _table(("row", "test pictures", "split", "digest"), rows)
    unseen = content.get("unseen", {})
    if not unseen:
        return f"{text}\n\nNo concept was held out by name, so none may be called unseen."
    linked = all(how["wordnet"] and how["kinds"] for how in unseen.values())
    links = "their synonyms and kinds by WordNet too" if linked else "by their names alone"
    splits = ", ".join(sorted({how["split"] or "all" for how in unseen.values()}))
    return (
        f"{text}\n\nNo text, name, class or category of the split {splits} names these {len(unseen)} concepts"
        f" ({links}): {', '.join(unseen)}. Only these may be called unseen."
    )


def _origins(pool: Pool, index: Index | None) -> str:
    """Sources with their licences and authors, and the kept records of each."""
    causes = indexes.causes_of(pool, index)
    counts: Counter[str] = Counter()
    licences, authors = defaultdict(set), defaultdict(set)
    for part in range(len(pool.counts)):
        for _, words in indexes.kept_words(pool, part, causes):
            source = words["source"]
            counts[source] += 1
            licences[source].add(words.get("licence") or "not given")
            authors[source].add(words.get("author") or "not given")
    rows = [
        (source, n, ", ".join(sorted(licences[source])), ", ".join(sorted(authors[source])[:5]))
        for source, n in sorted(counts.items())
    ]
    return "## Sources and authors\n\n" + _table(
        ("source", "kept records", "licence", "author"), rows
    )


def _made(pool: Pool, index: Index | None) -> str:
    steps = [{"step": "pack", **pool.manifest["made"]}]
    steps += [] if index is None else index.content["made"]
    brief = [{k: v for k, v in step.items() if k not in ("names",)} for step in steps]
    lines = "\n".join(json.dumps(step, sort_keys=True) for step in brief)
    return f"## How it was made\n\n```\n{lines}\n```"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        text = f"{value:,}" if isinstance(value, int) else str(value)
        return text.replace("|", r"\|")

    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)
