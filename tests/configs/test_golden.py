"""What the shipped configs come to is what golden/ holds: a changed default shows in review."""

import json

import golden
import pytest

REMEDY = "if that is meant, write the files anew: python tests/configs/golden.py"


def changes(was: dict, now: dict) -> list[str]:
    """A line for every field that differs."""
    absent = object()
    names = list(dict.fromkeys([*was, *now]))
    pairs = [(name, was.get(name, absent), now.get(name, absent)) for name in names]
    shown = [(n, *("absent" if v is absent else json.dumps(v) for v in pair)) for n, *pair in pairs]
    return [f"{name}: {old} -> {new}" for name, old, new in shown if old != new]


@pytest.fixture(scope="module")
def made():
    return golden.everything()


@pytest.mark.medium
def test_every_file_belongs_to_a_config(made):
    assert {path.stem for path in golden.GOLDEN.iterdir()} == set(made)


@pytest.mark.medium
@pytest.mark.parametrize("name", sorted(path.stem for path in golden.GOLDEN.glob("*.json")))
def test_nothing_changed_unseen(made, name):
    kept = json.loads((golden.GOLDEN / f"{name}.json").read_text("utf-8"))
    found = changes(kept, made[name])
    assert not found, "\n".join([f"golden/{name}.json: {REMEDY}", *found])


@pytest.mark.medium
def test_the_files_are_as_they_are_written(made):
    for name, content in made.items():
        content = json.loads(json.dumps(content))
        if content == json.loads((golden.GOLDEN / f"{name}.json").read_text("utf-8")):
            # Nothing but what changed differs when they are written anew.
            assert golden.text(content) == (golden.GOLDEN / f"{name}.json").read_text("utf-8")


def test_a_changed_a_new_and_a_lost_field_are_each_a_line():
    was = golden.fields({"steps": 280, "data": {"sources": [{"name": "a", "weight": 0.7}]}})
    now = golden.fields({"steps": 300, "data": {"sources": [{"name": "a"}]}, "seeds": [0]})
    assert changes(was, now) == [
        "steps: 280 -> 300",
        "data.sources[0].weight: 0.7 -> absent",
        "seeds: absent -> [0]",
    ]
