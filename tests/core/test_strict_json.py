"""JSON as the standard has it, and the numbers of it."""

import ast
import json
import pathlib

import pytest

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.core.strict_json import NotFinite

PACKAGE = pathlib.Path(strict_json.__file__).parents[1]
# Texts that the program itself made a moment ago: keys of caches, messages between processes, arguments of workers.
OWN_TEXTS = {
    "adapt/fit.py",
    "adapt/head.py",
    "curation/decontaminate.py",
    "curation/duplicates.py",
    "curation/filters.py",
    "curation/pack.py",
    "curation/running/engine.py",
    "processes/hosts.py",
    "weights/model.py",
    "weights/text_tower.py",
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN at line 1, column 1"),
        ('{"a": 1,\n "b": [2, NaN]}', "NaN at line 2, column 11"),
        ('{"NaN": "an Infinity", "b": -Infinity}', "-Infinity at line 1, column 29"),
        ('["\\"NaN", Infinity]', "Infinity at line 1, column 11"),
        ("[1e300, 1, 1e999]", "1e999 at line 1, column 12"),
        ("[-1E+999]", "-1E+999 at line 1, column 2"),
    ],
)
def test_a_number_that_is_not_finite_is_told_with_its_place(tmp_path, text, said):
    for form in (text, text.encode()):
        with pytest.raises(NotFinite) as error:
            strict_json.parse(form)
        assert str(error.value) == f"{said}; write a finite number, or null"
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as told:
        strict_json.read(tmp_path / "a.json", "write it again")
    path = tmp_path / "a.json"
    assert str(told.value) == (
        f"{path}: not JSON ({said}; write a finite number, or null); write it again"
    )


def test_what_is_json_is_read_as_python_s_reader_does():
    text = '\ufeff{"a": [1, 2.5, 1e300, -0.0, 1e-999, null, true, "NaN 1e999"], "b": {"c": "é"}}'
    assert strict_json.parse(text.encode()) == json.loads(text[1:])
    assert strict_json.parse('{"a": {"b": 1}}', lambda made: [*made]) == ["a"]


@pytest.mark.parametrize("text", ["", "{", "[1,]", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_json_is_a_value_error_but_not_of_numbers(text):
    with pytest.raises(ValueError) as error:
        strict_json.parse(text)
    assert not isinstance(error.value, NotFinite)


def test_gaps_of_tables_are_null():
    assert strict_json.parse_gaps('[NaN, -Infinity, 1e999, 2.5, "NaN"]') == [
        *[None] * 3,
        2.5,
        "NaN",
    ]


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file; get it"):
        strict_json.read(tmp_path / "none.json", "get it")
    with pytest.raises(UserError, match=rf"{tmp_path.name}: cannot be read \(.*\); get it"):
        strict_json.read(tmp_path, "get it")


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (5, 5, 5.0),
        (5.0, 5, 5.0),
        (2**70, 2**70, 2.0**70),
        (5.7, None, 5.7),
        (True, None, None),
        ("5", None, None),
        (None, None, None),
        (float("nan"), None, None),
        (float("inf"), None, None),
        ([5], None, None),
    ],
)
def test_numbers_are_neither_texts_nor_truths(value, whole, number):
    assert strict_json.whole(value) == whole and type(strict_json.whole(value)) is type(whole)
    assert strict_json.number(value) == number


def test_json_from_a_disk_is_read_here_alone():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads"):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == OWN_TEXTS | {"core/strict_json.py"}
