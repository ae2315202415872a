"""Outcomes per test image: written before their record, read back exactly, and what is said where they do not fit."""

import json
import logging

import numpy as np
import pytest

from intern_jax.benchmark import runner, scoring
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.scores import outcomes, table
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.core.config import UserError
from intern_jax.core.layout import Layout

KEY = {
    "task": "fashion",
    "family": "classification",
    "metric": "top1",
    "method": "ours",
    "fraction": 0.1,
    "seed": 0,
    "draw": 0,
    "test_digest": "abc",
}
FIELDS = {"classification": "top1", "segmentation": "miou", "depth": "rmse"}


def classified():
    """The summary of 40 pictures, half of them right."""
    label = np.arange(40) % 4
    logits = np.eye(4)[np.where(np.arange(40) < 20, label, (label + 1) % 4)]
    return scoring.score(suite.find("fashion"), logits, {"label": label}, 4)


def recorded(folder, key=KEY, make=classified):
    layout = Layout.of(folder)
    layout.records.mkdir(exist_ok=True)
    return layout, runner.Recorder(layout, {})(key, make)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([0.0, 1.0]), np.uint8),
        (np.array([True, False]), np.uint8),
        (np.array([-1.0, 3.0]), np.int8),
        (np.array([0, 300]), np.uint16),
        (np.array([-1, 40_000]), np.int32),
        (np.array([0, 2**31]), np.uint32),
        (np.array([-1.0, 2.0**40]), np.int64),
        (np.array([0.5, np.nan]), np.float32),
        (np.array([0.1, 1.0]), np.float64),
        (np.array([255.0, 256.0]), np.uint16),
    ],
)
def test_the_smallest_dtype_is_exact(values, kind):
    small = outcomes.compact(values)
    assert small.dtype == kind
    np.testing.assert_array_equal(small.astype(values.dtype), values)


@pytest.mark.parametrize("family", FIELDS)
def test_a_score_follows_from_what_is_kept(tmp_path, family):
    rng = np.random.default_rng(0)
    row = suite.find(
        {"classification": "fashion", "segmentation": "rooms_seg"}.get(family, "rooms_depth")
    )
    if family == "classification":
        out, arrays = rng.normal(size=(30, 7)), {"label": rng.integers(0, 7, 30)}
    elif family == "segmentation":
        out, arrays = rng.normal(size=(30, 8, 8, 7)), {"mask": rng.integers(0, 7, (30, 8, 8))}
    else:
        valid = rng.random((30, 8, 8)) < 0.8
        out = rng.normal(size=(30, 8, 8, 1))
        arrays = {"depth": rng.uniform(1, 5, (30, 8, 8)), "depth_valid": valid}
    summary = scoring.score(row, out, arrays, 7)
    key = KEY | {"task": row.name, "family": family, "metric": row.metric}
    layout, made = recorded(tmp_path, key, lambda: dict(summary))
    (path,) = layout.records.glob("*.npz")
    assert path.name == made.outcomes and "outcomes" not in made.facts
    assert record_lib.read(path.with_suffix(".json")).outcomes == path.name
    found = outcomes.Store([layout.records]).of(made)
    np.testing.assert_array_equal(found, summary["outcomes"])
    assert outcomes.metric_of(made).score_of(found.sum(axis=0)) == pytest.approx(made.score)
    assert not list(layout.records.glob("*.tmp"))


def test_outcomes_are_whole_before_their_record_is_there(tmp_path, monkeypatch):
    def killed(path, record):
        (file,) = path.parent.glob("*.npz")
        np.testing.assert_array_equal(outcomes.read(file, record)[:, 1], np.arange(40) < 20)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(record_lib, "write", killed)
        recorded(tmp_path)
    layout, made = recorded(tmp_path)
    assert made.score == 50.0 and len(list(layout.records.iterdir())) == 2


def test_held_out_scores_keep_no_outcomes(tmp_path):
    layout, made = recorded(tmp_path, KEY | {"split": "validation"})
    assert made.outcomes == "" and not list(layout.records.glob("*.npz"))


def test_a_record_of_before_opens_and_has_none(tmp_path):
    layout, made = recorded(tmp_path)
    (path,) = layout.records.glob("*.json")
    content = json.loads(path.read_text())
    for name in ("outcomes", "n_all_train", "whole_train", "whole_test"):
        del content[name]
    path.write_text(json.dumps(content))
    old = record_lib.read(path)
    assert (old.outcomes, old.n_all_train, old.whole_test) == ("", None, None)
    store = outcomes.Store([layout.records])
    assert store.of(old) is None and store.faults == {}
    assert "50.0 (7.9)" in table.results([old, made], [layout.records])["table"]


def gone(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def text(path):
    path.write_text("no archive")


def pickled(path):
    np.savez(path, statistics=np.array([{}], object), images=np.array("abc"))


def another_score(path):
    statistics = np.ones((40, 2))
    np.savez_compressed(path, statistics=statistics, images=np.array("abc"))


def another_shape(path):
    np.savez_compressed(path, statistics=np.ones((40, 1)), images=np.array("abc"))


def other_images(path):
    np.savez_compressed(path, statistics=np.ones((40, 2)), images=np.array("abd"))


def fewer_images(path):
    np.savez_compressed(path, statistics=np.ones((39, 2)), images=np.array("abc"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (gone, r"is gone; delete its record and run again"),
        (cut, r"damaged \(.*\); delete"),
        (text, r"damaged \(.*\); delete"),
        (pickled, r"damaged \(.*\); delete"),
        (another_score, r"gives 100, its record 50; delete"),
        (another_shape, r"holds no outcomes of top1; delete"),
        (other_images, r"is of other test images than its record; delete"),
        (fewer_images, r"is of other test images than its record; delete"),
    ],
)
def test_a_file_that_does_not_fit_is_one_warning_and_the_table_is_drawn(
    tmp_path, caplog, damage, said
):
    layout, made = recorded(tmp_path)
    _, other = recorded(tmp_path, KEY | {"method": "theirs"})
    path = layout.records / made.outcomes
    damage(path)
    with pytest.raises(UserError, match=rf"{path.name}: {said}"):
        outcomes.read(path, made)
    with caplog.at_level(logging.WARNING):
        found = table.results([made, other], [layout.records])
    assert "50.0 (7.9)" in found["table"] and "no interval" in found["table"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert path.name in line and "\n" not in line


def test_several_files_that_are_gone_are_one_line(tmp_path, caplog):
    made = [recorded(tmp_path, KEY | {"method": name})[1] for name in ("a", "b", "c")]
    for path in (tmp_path / "records").glob("*.npz"):
        path.unlink()
    store = outcomes.Store([tmp_path / "records"])
    assert [store.of(one) for one in made] == [None] * 3
    with caplog.at_level(logging.WARNING):
        store.warn()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "(and 2 more files)" in line


@pytest.mark.parametrize("name", ["../../secret.npz", "a/b.npz", "..", "*.npz", "a.json"])
def test_a_record_names_no_file_elsewhere(tmp_path, name):
    layout, made = recorded(tmp_path)
    store = outcomes.Store([layout.records])
    assert store.of(made.model_copy(update={"outcomes": name})) is None
    assert "is no file beside a record" in store.faults[name]


def test_outcomes_below_a_folder_are_found(tmp_path):
    layout, made = recorded(tmp_path)
    deep = layout.records / "deep"
    deep.mkdir()
    (layout.records / made.outcomes).rename(deep / made.outcomes)
    assert outcomes.Store([tmp_path / "nowhere", layout.records]).of(made).shape == (40, 2)
    assert outcomes.Store([]).of(made) is None


def test_test_images_are_the_same_by_digest_or_fingerprint_and_number():
    def one(**fields):
        return record_lib.made(KEY | {"score": 1.0, "n_test": 3, "test_digest": ""} | fields)

    assert outcomes.same_images(one(test_digest="a"), one(test_digest="a"))
    assert outcomes.same_images(one(test_digest="a", data={"test": "f"}), one(data={"test": "f"}))
    assert not outcomes.same_images(one(test_digest="a"), one(test_digest="b"))
    assert not outcomes.same_images(one(test_digest="a"), one(test_digest="a", n_test=4))
    assert not outcomes.same_images(one(), one())
