"""The committed pages are what their figures give, and a file that is not right is one clear line."""

import json
import pathlib
import re
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from intern_jax.core.config import UserError  # noqa: E402
from tools.bench import measured  # noqa: E402
from tools.bench.measured import Measured  # noqa: E402
from tools.scoreboard import __main__ as program  # noqa: E402
from tools.scoreboard import claims, pages, read  # noqa: E402

FRONT_LINES = 120
TABLE = {
    "title": "Speed",
    "command": "python -m tools.bench.speed",
    "machine": "one core",
    "date": "2026-11-25",
    "commit": None,
    "key": 2,
    "columns": [
        {"name": "network"},
        {"name": "mode"},
        {"name": "ours", "unit": "images/s", "digits": 1},
        {"name": "torch", "unit": "images/s", "digits": 1},
        {"name": "gain", "style": "signed", "digits": 1},
    ],
    "rows": [
        ["vit", "forward", 30.0, 15.0, {"mean": 1.0, "low": 0.0, "high": 2.0, "n": 3}],
        ["vit", "train", 9.0, 10.0, {"mean": 0.5, "low": -0.0, "high": 1.0, "n": 3}],
        ["net", "train", 8.0, 16.0, {"mean": -1.0, "low": -2.0, "high": -0.0, "n": 3}],
    ],
    "interval": "95% t-interval",
}
CLAIM = {
    "claim": "vit, images per second",
    "source": "speed",
    "rows": ["vit *"],
    "column": "ours",
    "over": "torch",
    "bar": {"at_least": 1.0},
    "peer": "PyTorch",
}


@pytest.fixture
def root(tmp_path):
    """A small project: one table, one claim, two pages."""
    (tmp_path / read.DATA).mkdir(parents=True)
    (tmp_path / read.TEXT).mkdir()
    (tmp_path / read.DATA / "speed.json").write_text(json.dumps(TABLE))
    (tmp_path / read.CLAIMS).write_text(json.dumps({"claims": [CLAIM]}))
    (tmp_path / read.TEXT / "BENCHMARKS.md").write_text("# All\n\n{{scoreboard}}\n\n{{machines}}\n")
    (tmp_path / read.TEXT / "speed.md").write_text("# Speed\n\n{{measured speed}}\n")
    return tmp_path


def error_of(root):
    with pytest.raises(UserError) as caught:
        pages.make(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    table = re.search(r"(?:^\|.*\n)+", page.partition(f"## {heading}\n")[2], re.MULTILINE)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()[2:]]


# --- what is committed ----------------------------------------------------------------------------


def test_every_page_is_what_its_figures_give(capsys):
    assert program.main(["--check"]) == 0, capsys.readouterr().out


def test_the_front_page_is_short():
    assert len((ROOT / "BENCHMARKS.md").read_text("utf-8").splitlines()) <= FRONT_LINES


def test_each_line_of_the_scoreboard_has_figure_bar_command_machine_and_date():
    page = (ROOT / "BENCHMARKS.md").read_text("utf-8")
    machines = re.findall(r"^- (M\d+): \S", page, re.MULTILINE)
    rows = rows_of(page, "Scoreboard")
    assert len(rows) > 30
    for claim, ours, bar, held, command, machine, date in rows:
        assert claim and ours and bar and held in ("held", "**not held**")
        assert re.fullmatch(r"`(python|make|/usr/bin/time) .+`", command)
        assert machine in machines and re.fullmatch(r"2\d{3}-\d{2}-\d{2}", date)


def test_every_claim_that_is_not_held_stands_on_the_front_page():
    rows = rows_of((ROOT / "BENCHMARKS.md").read_text("utf-8"), "Scoreboard")
    board = claims.claims(ROOT, read.tables(ROOT))
    failed = [claim for claim in board if not claim.held]
    assert len(failed) == sum(row[3] == "**not held**" for row in rows) > 0


def test_each_table_has_its_command_machine_and_date_in_its_section():
    for path in (ROOT / "benchmarks").glob("*.md"):
        if path.name == pages.README:
            continue
        for part in re.split(r"^## ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            assert re.search(r"^- `.+`\n- .+; 2\d{3}-\d{2}-\d{2}, commit", part, re.MULTILINE), part


def test_no_measured_figure_is_typed_into_the_words_of_a_page():
    for name, text in read.texts(ROOT).items():
        words = re.sub(r"\{\{.*?\}\}|`.*?`", "", text)
        assert not re.findall(r"\d\.\d|\d (?:s|ms|min|MB|GB|GiB)\b", words), name


def test_no_figure_names_a_folder_of_one_machine():
    for path in (ROOT / "benchmarks").rglob("*"):
        if path.is_file():
            assert not re.search(r"=/|/(home|root|work|tmp)/", path.read_text("utf-8")), path


# --- the tool -------------------------------------------------------------------------------------


def test_a_page_that_was_changed_by_hand_or_has_no_text_is_told(root, capsys):
    assert program.main([f"--root={root}", "--check"]) == 1
    assert program.main([f"--root={root}"]) == 0
    assert program.main([f"--root={root}", "--check"]) == 0
    page = root / "benchmarks" / "speed.md"
    page.write_text(page.read_text().replace("30.0", "31.0"))
    (root / "benchmarks" / "old.md").write_text("# Old\n")
    capsys.readouterr()
    assert program.main([f"--root={root}", "--check"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in told] == [
        "benchmarks/speed.md",
        "benchmarks/old.md",
    ]


def test_a_quotient_of_several_rows_is_held_by_the_least(root):
    (line,) = claims.claims(root, read.tables(root))
    assert (line.ours, line.bar, line.held) == ("0.90 to 2.00", "PyTorch, ≥ 1", False)
    assert (line.command, line.machine, line.date) == (TABLE["command"], "one core", "2026-11-25")
    page = pages.make(root)[root / "BENCHMARKS.md"]
    assert "[vit, images per second](benchmarks/speed.md) | 0.90 to 2.00" in page
    assert "| **not held** | `python -m tools.bench.speed` | M1 | 2026-11-25 |" in page
    assert "- M1: one core" in page


@pytest.mark.parametrize(
    ("count", "there"), [({"low_above": 0}, 1), ({"high_below": 0}, 1), ({"above": 0.6}, 1)]
)
def test_rows_are_counted_and_a_limit_that_was_rounded_to_zero_keeps_its_side(root, count, there):
    claim = {"claim": "gains", "source": "speed", "column": "gain", "count": count}
    text = json.dumps({"claims": [claim | {"bar": {"at_least": 3}}]})
    (root / read.CLAIMS).write_text(text)
    (line,) = claims.claims(root, read.tables(root))
    assert (line.ours, line.bar, line.held) == (f"{there} of 3", "≥ 3 of 3", False)


def test_a_claim_of_less_weight_stands_on_its_own_page_only_while_it_is_held(root):
    for bar, front in ((0.9, False), (1.0, True)):
        entry = CLAIM | {"bar": {"at_least": bar}, "front": False}
        (root / read.CLAIMS).write_text(json.dumps({"claims": [entry]}))
        (line,) = claims.claims(root, read.tables(root))
        assert line.front is front and line.held is not front


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": ["vlt *"]}, "claims[0]: rows: no row 'vlt *'"),
        ({"column": "our"}, "column: no column 'our'; did you mean ours?"),
        ({"source": "sped"}, "source: no file benchmarks/data/sped.json; did you mean speed?"),
        ({"bar": {"atleast": 1}}, "bar: write one of at_least"),
        ({"bars": 1}, "bars: did you mean bar"),
        ({"column": "mode"}, "'forward' cannot be divided by 15.0"),
        ({"rows": "vit *"}, "rows: is no list of texts"),
        ({"column": "network", "over": None, "bar": {"at_least": 1}}, "nothing to compare"),
        ({"claim": " "}, "claim: is missing"),
    ],
)
def test_a_wrong_claim_is_one_line(root, change, told):
    entry = {name: value for name, value in (CLAIM | change).items() if value is not None}
    (root / read.CLAIMS).write_text(json.dumps({"claims": [entry]}))
    assert told in error_of(root) and "scoreboard.json" in error_of(root)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"date": "25 November"}, "date: '25 November' is no date such as 2026-11-25"),
        ({"command": ""}, "command: is missing or no text"),
        ({"machine": None}, "machine: is missing or no text"),
        ({"comand": "x"}, "comand: no field of the form"),
        ({"rows": [["vit", "forward", 1.0]]}, "rows[0]: is no list of 5 cells"),
        ({"rows": [["vit", "forward", {"mean": 1.0, "sd": 1.0}, 1.0, 1.0]]}, "needs `over`"),
        ({"rows": [["vit", "forward", {"men": 1.0}, 1.0, 1.0]]}, "ours: men: no field of a cell"),
        ({"rows": [["vit", "forward", {"mean": 1, "median": 1}, 1.0, 1.0]]}, "has two of"),
        ({"rows": [["vit", "forward", {"low": 1.0}, 1.0, 1.0]]}, "needs low and high"),
        ({"rows": [["vit", "forward", ["1"], 1.0, 1.0]]}, "ours: ['1'] is no text, finite number"),
        ({"interval": ""}, "the form needs `interval`"),
        ({"key": 9}, "key: 9 is no number of columns from 1 to 5"),
        ({"columns": [{"name": "a", "style": "roman"}]}, "columns[0]: style: 'roman'"),
        ({"notes": "one"}, "notes: is no list of texts"),
    ],
)
def test_a_wrong_table_is_one_line_that_names_file_and_field(root, change, told):
    (root / read.DATA / "speed.json").write_text(json.dumps(TABLE | change))
    found = error_of(root)
    assert told in found and "speed.json" in found


def test_what_is_no_json_or_no_figure_is_refused(root):
    path = root / read.DATA / "speed.json"
    path.write_text("{")
    assert "speed.json: is no JSON" in error_of(root)
    path.write_text(json.dumps(TABLE).replace("15.0", "NaN"))
    assert "NaN at line 1, column" in error_of(root)


def test_figures_that_no_page_shows_and_directives_that_are_none_are_refused(root):
    (root / read.TEXT / "speed.md").write_text("# Speed\n\n{{table speed}}\n")
    assert "speed.json: no page shows it; write {{measured speed}}" in error_of(root)
    for text, told in {
        "{{mesured speed}}": "no directive 'mesured'; did you mean measured?",
        "{{table speed | column = ours}}": "write columns = ... or rows = ...",
        "{{table speed | rows = x}}": "no row of 'Speed' is named x",
        "{{figure speed | vit train | our}}": "no column 'our'",
        "{{figure speed | vit trian | ours}}": "no row 'vit trian' in speed; did you mean vit train",
    }.items():
        (root / read.TEXT / "speed.md").write_text("{{measured speed}}\n" + text)
        assert told in error_of(root)


def test_a_part_of_two_tables_has_a_column_of_runs(root):
    other = TABLE | {"rows": [["vit", "train", 1.0, None]], "columns": TABLE["columns"][:4]}
    (root / read.DATA / "other.json").write_text(json.dumps(other | {"interval": ""}))
    text = "{{about speed; other}}\n\n{{table speed; other | columns = network; gain; ours | rows = * train}}"
    (root / read.TEXT / "speed.md").write_text(text)
    page = pages.make(root)[root / "benchmarks" / "speed.md"]
    assert page.splitlines()[-5:] == [
        "| run | network | gain | ours, images/s |",
        "|---|---|---|---|",
        "| speed | vit | +0.5 [-0.0, +1.0] | 9.0 |",
        "| speed | net | -1.0 [-2.0, -0.0] | 8.0 |",
        "| other | vit | - | 1.0 |",
    ]


@pytest.mark.parametrize(
    ("cell", "column", "text"),
    [
        (None, {}, "-"),
        (True, {}, "yes"),
        (254879, {}, "254,879"),
        (4999, {}, "4999"),
        (1e-5, {}, "1e-5"),
        (0.355, {"style": "percent", "digits": 1}, "35.5%"),
        (7860, {"style": "duration"}, "2 h 11 min"),
        (340, {"style": "duration"}, "5 min 40 s"),
        (6.8, {"style": "duration"}, "6.8 s"),
        (
            {"mean": 13.5, "sd": 1.8, "standard_error": 2.2, "n": 15},
            {"digits": 1},
            "13.5 ± 1.0 (2.2)",
        ),
        ({"mean": 0.0, "half_interval": 1.25, "digits": 2}, {"digits": 1}, "0.00 ± 1.25"),
        ({"median": 0.988, "low": 0.935, "high": 1.023}, {"digits": 3}, "0.988 [0.935, 1.023]"),
        ({"low": 218, "high": 436, "unit": "s"}, {}, "218 to 436 s"),
        ({"at_most": 3e-7}, {}, "≤ 3e-7"),
        ({"below": 0.01, "unit": "points"}, {}, "< 0.01 points"),
    ],
)
def test_cells_read_as_the_form_says(cell, column, text):
    assert measured.text(cell, column) == text


def test_a_bar_ends_no_cell():
    columns = [{"name": "a|b"}, {"name": "c", "unit": "x|y"}]
    assert measured.head(columns).splitlines()[0] == r"| a\|b | c, x\|y |"
    assert measured.line(["`p | q`", 1], columns) == r"| `p \| q` | 1 |"


def test_the_notation_is_said_of_the_spreads_that_are_there():
    assert Measured(**TABLE).notation() == "[low, high] the 95% t-interval"
    rows = [["vit", "train", {"mean": 1, "sd": 1, "standard_error": 1, "n": 2}, 1, 1]]
    found = Measured(**TABLE | {"rows": rows, "over": "seeds", "interval": ""}).notation()
    spread = (
        "± half the 95% t-interval of the mean over seeds, from three or more values, taken as "
    )
    spread += "independent. 'sd' the standard deviation of two"
    assert found == f"{spread}. (c) the standard error over test images"


def test_what_a_program_writes_is_read_back_and_hides_the_paths_of_its_machine(root, monkeypatch):
    argv = ["x", "--torch-python=/opt/peers/bin/python", "--rounds=2", "--out=/tmp/a.json"]
    monkeypatch.setattr(sys, "argv", argv)
    given = measured.provenance("tools.bench.x")
    assert given["command"] == "python -m tools.bench.x --torch-python=... --rounds=2"
    assert "cores" in given["machine"] and "no accelerator" in given["machine"]
    table = Measured(**TABLE | given | {"raw": {"rounds": [1, 2]}})
    table.write(root / "new.json")
    assert measured.fault(json.loads((root / "new.json").read_text())) is None
    assert read.table(root / "new.json") == table
    with pytest.raises(ValueError, match="needs `over`"):
        rows = [["vit", "train", {"mean": 1.0, "sd": 0.5}, 1.0, 1.0]]
        Measured(**TABLE | {"rows": rows}).write(root / "bad.json")
    assert not (root / "bad.json").exists()


def test_every_committed_table_is_written_as_it_is_read(tmp_path):
    for name, table in read.tables(ROOT).items():
        table.write(tmp_path / name)
        assert (tmp_path / name).read_text() == (ROOT / read.DATA / f"{name}.json").read_text(), (
            name
        )


def test_a_line_and_a_mistake_in_a_copy_of_the_real_figures(tmp_path, capsys):
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    path = tmp_path / read.DATA / "goodput.json"
    path.write_text(path.read_text().replace("0.895", "0.905"))
    assert program.main([f"--root={tmp_path}"]) == 0
    page = (tmp_path / "BENCHMARKS.md").read_text()
    (line,) = [line for line in page.splitlines() if "Useful time with a kill" in line]
    assert "| 90.5% | ≥ 90% | held |" in line
    path.write_text(path.read_text().replace('"command"', '"comand"'))
    assert program.main([f"--root={tmp_path}", "--check"]) == 1
    assert "goodput.json: " in capsys.readouterr().err
