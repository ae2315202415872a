"""Class-aware epochs hold every class as often as its factors say, whatever a source is made of."""

import logging
import sys

import numpy as np
import pytest

from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.data.batches.balance import RepeatOrder, line_of
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.batches.settings import Group
from intern_jax.data.schema.source import known_class_sets
from intern_jax.data.sources.subset import Subset

LONG_TAIL = np.repeat(np.arange(20), [int(4000 * 0.7**k) + 3 for k in range(20)])


class Labelled:
    """Small pictures; a label says its class, and the key the sample."""

    name, family, classes = "tail", "classification", tuple("abcdefghijklmnopqrst")

    def __init__(self, labels=None):
        given = LONG_TAIL if labels is None else labels
        self.labels = np.random.default_rng(0).permutation(np.asarray(given, np.int32))
        self.keys = [str(i) for i in range(len(self.labels))]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = int(self.labels[index])
        return {"image": np.zeros((1, 1, 3), np.uint8), "label": label, "key": self.keys[index]}


class Boxed:
    """Pictures with boxes of several classes, some ignored; the classes are known by `sets` or by reading."""

    name, family, classes, labels = "boxed", "detection", ("a", "b", "c"), None

    def __init__(self, sets=((0,), (0, 0, 1), (2,), (), (0,)), told=True):
        self.sets, self.reads = [tuple(one) for one in sets], 0
        self.keys = [str(i) for i in range(len(self.sets))]
        if told:
            self.class_sets = lambda: [tuple(sorted(set(one))) for one in self.sets]

    def __len__(self):
        return len(self.sets)

    def __getitem__(self, index):
        self.reads += 1
        labels = np.asarray([*self.sets[index], 2], np.int32)
        return {
            "image": np.zeros((4, 4, 3), np.uint8),
            "boxes": np.tile(np.float32([0, 0, 2, 2]), (len(labels), 1)),
            "box_labels": labels,
            "box_ignore": np.arange(len(labels)) == len(labels) - 1,
            "key": self.keys[index],
        }


class Masked(Boxed):
    """The same classes as masks."""

    family = "segmentation"

    def __getitem__(self, index):
        self.reads += 1
        mask = np.full((4, 4), 255, np.uint8)
        mask.reshape(-1)[: len(self.sets[index])] = self.sets[index]
        return {"image": np.zeros((4, 4, 3), np.uint8), "mask": mask, "key": self.keys[index]}


def label(sample, _rng):
    return {"label": np.int32(sample["label"]), "number": np.int32(sample["key"])}


sys.modules["balance_parts"] = sys.modules[__name__]


def epoch_of(order, epoch):
    return np.array([order(epoch, position) for position in range(order.count)])


def order_of(source, seed=0, **balance):
    factors, line = line_of(source, balance, "g.sources[0]")
    return RepeatOrder(factors, seed, line), factors


def test_an_epoch_by_class_has_every_class_equally_often():
    source = Labelled()
    order, factors = order_of(source, by="class")
    assert order.count == len(source) and abs(factors.mean() - 1) < 1e-9
    for epoch in (0, 1, 9):
        records = epoch_of(order, epoch)
        counts = np.bincount(source.labels[records], minlength=20)
        assert np.abs(counts / (order.count / 20) - 1).max() < 0.01
        times = np.bincount(records, minlength=len(source))
        assert (np.floor(factors) <= times).all() and (times <= np.ceil(factors)).all()
    assert not np.array_equal(epoch_of(order, 0), epoch_of(order, 1))


def test_an_epoch_by_repeat_factors_has_every_class_as_often_as_lvis_says():
    source, threshold = Labelled(), 0.1
    order, factors = order_of(source, by="repeat", threshold=threshold)
    frequency = np.bincount(source.labels) / len(source)
    expected = np.maximum(1, np.sqrt(threshold / frequency))
    np.testing.assert_allclose(factors, expected[source.labels])
    wanted = np.bincount(source.labels, weights=factors)
    counts = np.bincount(source.labels[epoch_of(order, 3)], minlength=20)
    # A class of 100 rows may be one row off: 1 %.
    assert np.abs(counts - wanted).max() < 1.01 and order.count == round(factors.sum())
    assert np.abs(counts / wanted - 1)[wanted > 101].max() < 0.01


def test_several_classes_count_once_a_sample_and_the_rarest_decides():
    sets = [(0,)] * 900 + [(0, 1)] * 90 + [(0, 2, 2)] * 9 + [()]
    factors = line_of(Boxed(sets), {"by": "repeat", "threshold": 0.25}, "g")[0]
    assert factors[:900].tolist() == [1.0] * 900 and factors[-1] == 1.0
    np.testing.assert_allclose(factors[900:990], np.sqrt(0.25 / 0.09))
    np.testing.assert_allclose(factors[990:999], np.sqrt(0.25 / 0.009))
    by_class = line_of(Boxed(sets), {"by": "class"}, "g")[0]
    each = np.asarray([1 / 999] * 900 + [1 / 999 + 1 / 90] * 90 + [1 / 999 + 1 / 9] * 9 + [0.0])
    np.testing.assert_allclose(by_class, each / each.mean())
    order = order_of(Boxed(sets), by="class")[0]
    records = epoch_of(order, 0)
    wanted = by_class[990:999].sum()
    assert 999 not in records and abs(((records >= 990) & (records < 999)).sum() - wanted) < 1.01


@pytest.mark.parametrize("kind", [Boxed, Masked])
def test_classes_come_from_the_source_or_from_one_reading(kind, caplog):
    told, untold = kind(), kind(told=False)
    expected = [(0,), (0, 1), (2,), (), (0,)]
    subset = Subset(Replacing(told), [2, 0])
    assert known_class_sets(told) == expected and known_class_sets(subset) == [(2,), (0,)]
    assert known_class_sets(Replacing(untold)) is None
    with caplog.at_level(logging.INFO):
        ours = line_of(Replacing(untold), {"by": "class"}, "g.sources[0]")[0]
    assert told.reads == 0 and untold.reads == 5
    assert "g.sources[0]: reads all 5 samples once, for their classes" in caplog.text
    np.testing.assert_allclose(ours, line_of(told, {"by": "class"}, "g")[0])
    assert known_class_sets(Subset(Labelled([1, 0, 1]), [0])) in ([(0,)], [(1,)])


def test_an_index_gives_the_factors(tmp_path):
    path = str(tmp_path / "index.npy")
    np.save(path, np.asarray([0.5, 2.25, 1.0, 0.25], np.float32))
    order, _ = order_of(Labelled([0, 0, 0, 0]), index=path)
    counts = np.asarray([np.bincount(epoch_of(order, e), minlength=4) for e in range(400)])
    assert order.count == 4 and set(counts[:, 1]) == {2, 3}
    np.testing.assert_allclose(counts.mean(0), [0.5, 2.25, 1.0, 0.25], atol=0.1)
    for wrong, said in (
        (np.ones(3), "3 factors for 4 samples"),
        (np.asarray([1, 0, 1, 1.0]), "0.0 at index 1; give a finite number > 0"),
        (np.asarray([1, 1, np.nan, 1.0]), "nan at index 2"),
        (np.ones((2, 2)), "no row of numbers"),
    ):
        np.save(path, wrong)
        with pytest.raises(UserError, match=said) as error:
            order_of(Labelled([0, 0, 0, 0]), index=path)
        assert path in str(error.value)
    with pytest.raises(UserError, match=r"gone\.npy: no readable \.npy"):
        order_of(Labelled([0]), index=str(tmp_path / "gone.npy"))


def test_a_group_s_epochs_are_balanced_and_its_config_checked():
    source = {"fn": "balance_parts:Labelled", "balance": {"by": "class"}}
    cfg = {
        "sources": [source],
        "batch_size": 100,
        "transform": {"fn": "balance_parts:label"},
    }
    checked = schema.checked(Group, cfg, "g")
    assert checked["sources"][0]["balance"]["by"] == "class"
    batches, rows = build_group(checked, 0), len(LONG_TAIL) // 100
    labels = np.concatenate([batches[i]["label"] for i in range(rows)])
    assert np.abs(np.bincount(labels, minlength=20) / (rows * 5) - 1).max() < 0.1
    assert (
        "balance"
        not in schema.checked(Group, {**cfg, "sources": [{"fn": "balance_parts:Labelled"}]}, "g")[
            "sources"
        ][0]
    )
    for balance, more, said in (
        ({"by": "size"}, {}, r"g.sources\[0\].balance.by: no 'size'"),
        ({"by": "repeat"}, {}, r"g.sources\[0\].balance.threshold: None; goes with by 'repeat'"),
        ({"by": "class", "threshold": 0.1}, {}, r"balance.threshold: 0.1; goes with by 'repeat'"),
        ({"by": "class"}, {"shuffle": {"block": 4}}, r"balance: goes with shuffle 'full' alone"),
    ):
        wrong = {"fn": "balance_parts:Labelled", "balance": balance, **more}
        with pytest.raises(UserError, match=said):
            schema.checked(Group, {**cfg, "sources": [wrong]}, "g")


def test_a_source_without_classes_is_refused():
    class Plain(Labelled):
        def __init__(self):
            self.labels, self.keys = None, ["0", "1"]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"image": np.zeros((1, 1, 3), np.uint8), "texts": ["a"], "key": str(index)}

    with pytest.raises(UserError, match=r"g.balance: tail has neither labels, boxes nor masks"):
        line_of(Plain(), {"by": "class"}, "g")
