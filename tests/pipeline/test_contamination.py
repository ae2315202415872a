"""A run refuses data that was not compared with the rows it is scored on."""

import types

import pytest

from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.pipeline import contamination

ROW = Row(
    "mine",
    "classification",
    {"fn": "intern_jax.data.embedded:load", "name": "furniture"},
    "top1",
    32,
)


@pytest.fixture
def row(monkeypatch):
    """A row whose test pictures are of a concept that must be unseen."""
    test = ROW.load("test")
    test.held_out = ("cat",)
    monkeypatch.setattr(Row, "load", lambda *_: test)
    monkeypatch.setitem(suite.ROWS, "mine", ROW)


def source(rows: dict, unseen: tuple[str, ...] = ()) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        name="web", decontaminated=lambda: rows, unseen=lambda: list(unseen)
    )


def settings(*rows: str, contaminated: tuple[str, ...] = ()) -> dict:
    return {"benchmark": {"rows": list(rows), "contaminated": list(contaminated), "data": None}}


def check(given: dict, *sources) -> None:
    contamination.check(given, "amateur", {"pairs": list(sources)})


DIGEST = fingerprint(ROW.load("test"))


@pytest.mark.parametrize("row", suite.MINI, ids=lambda row: row.name)
def test_the_embedded_manifest_is_of_the_rows_test_pictures(row):
    pool = embedded.load("emoji_pairs")
    assert pool.decontaminated()[row.name]["digest"] == fingerprint(row.load("test"))


@pytest.mark.parametrize("name", sorted(embedded.PRETRAINING))
def test_every_embedded_pool_passes_for_every_mini_row(name):
    check(settings(*(row.name for row in suite.MINI)), embedded.load(name))


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize(
    "rows, unseen, said",
    [
        ({}, (), "web was not compared with the test pictures of 'mine'"),
        ({"mine": {"digest": "other"}}, (), "web was compared with other test pictures of 'mine'"),
        ({"mine": {"digest": DIGEST}}, ("dog",), "web may hold 'cat', which 'mine' calls unseen"),
    ],
)
def test_what_was_not_compared_is_refused_in_one_line(rows, unseen, said):
    with pytest.raises(UserError, match=said) as told:
        check(settings("mine"), source(rows, unseen))
    assert str(told.value).startswith("config.amateur.data.pairs.sources[0]: ")
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("row")
def test_what_was_compared_or_is_accepted_passes():
    check(settings("mine"), source({"mine": {"digest": DIGEST}}, ("cat", "dog")))
    check(settings("mine", contaminated=("mine",)), source({}))
    check({"benchmark": None}, source({}))
    # Without a manifest, alone or inside another source, nothing is known.
    check(settings("mine"), types.SimpleNamespace(name="plain"))


@pytest.mark.usefixtures("row")
def test_a_manifest_is_found_inside_other_sources():
    for field in ("source", "cutouts"):
        outer = types.SimpleNamespace(name="outer", **{field: source({})})
        with pytest.raises(UserError, match="was not compared"):
            check(settings("mine"), outer)
