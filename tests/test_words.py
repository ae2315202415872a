"""The documents keep short sentences, as CONTRIBUTING.md asks, and each document begins with its title."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PLACES = ("*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md")
DOCS = sorted(path for place in PLACES for path in ROOT.glob(place))
MOST_WORDS = 25  # per sentence
MEAN_WORDS = 22  # per sentence of a whole document


def paragraphs(text: str) -> list[str]:
    """Prose of a Markdown document: without code, tables, headings and pictures; list items apart."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        item = re.match(r"\s*([-*]|\d+\.) ", line)
        if item or not line.strip():
            found.append(" ".join(lines))
            lines = []
        if item:
            line = line[item.end() :]
        if line.strip() and not re.match(r"    |\||#|!\[", line):
            lines.append(line.strip())
    return [paragraph for paragraph in found if paragraph]


def sentences(text: str) -> list[str]:
    """A span of code counts as one word, a link as its text; a sentence ends before white space."""
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    return [part for part in re.split(r"(?<=[.!?:])\s+", text) if part.strip()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One `a. b` here. Two: three?\nFour", ["One code here.", "Two:", "three?", "Four"]),
        (
            "# Title\n\n| a. b | c |\n\n- An item. Its second.\n- Next",
            ["An item.", "Its second.", "Next"],
        ),
        (
            "```bash\nrun it. now\n```\nSee [the page](x.md). Version 1.5 is there.",
            ["See the page.", "Version 1.5 is there."],
        ),
    ],
)
def test_what_counts_as_a_sentence(text, expected):
    assert [s for p in paragraphs(text) for s in sentences(p)] == expected


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_no_sentence_is_too_long(path):
    found = [s for p in paragraphs(path.read_text("utf-8")) for s in sentences(p)]
    assert found, f"{path.name}: no prose"
    long = [s for s in found if len(s.split()) > MOST_WORDS]
    assert not long, f"{path.name}: more than {MOST_WORDS} words: {long[0]}"
    mean = sum(len(s.split()) for s in found) / len(found)
    assert mean <= MEAN_WORDS, f"{path.name}: {mean:.1f} words per sentence"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_a_document_begins_with_its_title(path):
    text = path.read_text("utf-8")
    text = re.sub(r"^<!--.*?-->\s*", "", text)  # of a page that a program makes
    assert text.startswith("# ") and len(re.findall(r"^# ", text, re.MULTILINE)) == 1
