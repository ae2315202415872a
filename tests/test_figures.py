"""Figures in the prose of README, CONTRIBUTING and docs are those of benchmarks/data."""

import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.scoreboard import pages, read  # noqa: E402
from tools.scoreboard.claims import claims  # noqa: E402

# The runs without other work on the machine.
EPYC = "{{figure quickstart_runs | 2026-11-29, the same on AMD EPYC, installation too | time}}"
SLOW = "{{figure quickstart_runs | 2026-11-30, the same on AMD EPYC on a slower day, installation too | time}}"
XEON = "{{figure quickstart_runs | 2026-11-29, with merged experts and a squeeze, installation too | time}}"
GRAIN, OURS = "{{figure workers | quickstart Grain", "{{figure workers | quickstart ours"
SHUFFLE, LBFGS = "{{figure parts | shuffle, Grain a row of", "{{figure parts | L-BFGS, optax"
DEPTHWISE = "{{figure ops | depthwise 16 x 56 x 56 x 128, side 3, stride 1 both"
CONV = "{{figure ops | conv 64 x 2 x 2 x 512 to 512, side 3, stride 1 both"
ATTENTION = "{{figure ops | attention batch 16, 197 tokens, 6 heads of 64 both"
# Words of a document, with the figures as directives of the scoreboard's pages: table, row, column.
PROSE = {
    "README.md": [
        f"`make quickstart` took {EPYC} to {SLOW} on two idle cores of an AMD EPYC.",
        f"On an Intel Xeon it took {XEON}.",
        "It took {{figure mini_runs | from start to end | time}} on two CPU cores, two seeds of it side by side",
    ],
    "CONTRIBUTING.md": [
        f"every stage on the embedded images; took {EPYC} to {SLOW} on two idle cores of an AMD EPYC"
    ],
    "docs/architecture.md": [
        "Ours gave {{figure workers | jpeg ours | ours / Grain}} and "
        f"{OURS} | ours / Grain}}}} times Grain's images per second",
        f"The first batch after a roll-back took {GRAIN} | another step}}}} s, ours {OURS} | another step}}}} s.",
        f"{SHUFFLE} 20 | library}}}} in a source of 20 rows, {SHUFFLE} 1,000 | library}}}} in one of 1,000.",
        f"Ours took {SHUFFLE} 20 | ours}}}} and {SHUFFLE} 1,000 | ours}}}}",
        "Of {{figure images | mutated and hand-made pictures | figure}} hostile pictures, "
        "{{figure images | crashes | figure}} crashed and {{figure images | hangs | figure}} hung",
        "Of {{figure damage | damaged | checkpoints}} damaged checkpoints, "
        "{{figure damage | restored wrong | checkpoints}} were restored wrong",
        "It took {{figure trust_cost | digests of the whole state | figure}} for the quickstart's whole state",
        f"| {DEPTHWISE} | native}}}} | {DEPTHWISE} | cpu}}}} | `tests/ops/test_depthwise.py` |",
        f"| {CONV} | native}}}} | {CONV} | cpu}}}} | `tests/ops/test_conv.py` |",
        f"| {ATTENTION} | native}}}} | {ATTENTION} | cpu}}}} | `tests/ops/test_attention.py` |",
        f"Tracing and compiling took {LBFGS} trace and compile, CPU time | ours}}}} of CPU time, half of optax's "
        f"{LBFGS} trace and compile, CPU time | library}}}},",
        f"One fit took {LBFGS} one fit | ours}}}}",
        "Our scores differ from its scores by "
        "{{figure probe | shipped | greatest difference}} points",
        "at {{figure sweep | ours, one program | ours / PyTorch}} times the useful FLOP/s of PyTorch",
    ],
}
# Words of the README, with counts of the scoreboard's claims.
COUNTS = {
    "The generalist beats scratch with 10% on {} tasks": (
        "Rows on which the generalist with 10% of the labels beats scratch with 10%"
    ),
    "and scratch with all labels on {}.": "Rows on which it beats scratch with all labels",
}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def words(name: str) -> str:
    """A document with every run of white space as one space."""
    return " ".join((ROOT / name).read_text("utf-8").split())


@pytest.mark.parametrize(
    ("name", "prose"), [(name, prose) for name, found in PROSE.items() for prose in found]
)
def test_a_figure_is_that_of_its_table(name, prose):
    said = pages.Page(name, read.tables(ROOT), [], {}).fill(prose)
    assert "{{" not in said and said != prose
    assert said in words(name), f"{name} does not say: {said}"


@pytest.mark.parametrize("prose", COUNTS)
def test_a_count_is_that_of_its_claim(prose):
    ours = {claim.claim: claim.ours for claim in claims(ROOT, read.tables(ROOT))}
    count, _, rows = ours[COUNTS[prose]].partition(" of ")
    assert prose.format(NUMBERS[int(count)]) in words("README.md")
    assert NUMBERS[int(rows)] in words("README.md").lower()


def test_no_other_figure_with_a_unit_is_typed_beside_a_library():
    """In the chapter on parts that a library could replace, a time or ratio is one of those above."""
    _, chapter = words("docs/architecture.md").split("## Written here, although a library could")
    page = pages.Page("docs/architecture.md", read.tables(ROOT), [], {})
    checked = " ".join(page.fill(prose) for prose in PROSE["docs/architecture.md"])
    for figure in re.findall(r"\d[\d,.]* (?:ms|µs|s|times|points|hostile|damaged)\b", chapter):
        assert figure in checked, (
            f"docs/architecture.md: {figure} is not compared with benchmarks/data"
        )
