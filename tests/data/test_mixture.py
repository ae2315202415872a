"""A group's batches depend on (config, seed, index) alone, and mistakes stop at the start."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches import mixture, shuffle
from intern_jax.data.batches.mixture import OpenGroup, build_group, group_sources
from intern_jax.data.schema.sample import CorruptSample


class Numbers:
    """Samples whose picture, label and key say their number."""

    family, classes, labels = "classification", (), None

    def __init__(self, count: int, first: int = 0, bad: tuple = (), name: str = "numbers"):
        self.count, self.first, self.bad, self.name = count, first, bad, name
        self.keys = [str(first + i) for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise CorruptSample(self.keys[index], "damaged")
        number = self.first + index
        return {"image": np.full((4, 4, 3), number, np.uint8), "label": number, "key": str(number)}


def draw(sample, rng):
    """The sample's number and a random one."""
    return {"number": np.int32(sample["label"]), "draw": rng.random()}


def padded(sample, _rng, size=2):
    return {"number": np.zeros(size if sample["label"] < 100 else 3, np.int32)}


# Importable under one name whatever pytest calls this file.
sys.modules["mixture_parts"] = sys.modules[__name__]


def config(**changes):
    return {
        "sources": [
            {"fn": "mixture_parts:Numbers", "count": 10, "weight": 3.0},
            {"fn": "mixture_parts:Numbers", "count": 7, "first": 100, "weight": 1.0},
        ],
        "batch_size": 8,
        "transform": {"fn": "mixture_parts:draw"},
        **changes,
    }


def ready(batch_size):
    """A config for sources that are passed ready-made."""
    return {"batch_size": batch_size, "transform": draw}


def equal(a, b):
    return set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_batch_is_a_function_of_seed_and_index():
    first, second, other = (
        build_group(config(), 5),
        build_group(config(), 5),
        build_group(config(), 6),
    )
    batches = [first[i] for i in range(6)]
    assert all(equal(second[i], batches[i]) for i in (5, 0, 3, 3))
    assert not equal(other[0], batches[0])
    assert not equal(batches[0], batches[1])
    assert batches[0]["number"].shape == (8,) and batches[0]["source"].dtype == np.int32
    far = first[10_000_000]
    assert equal(far, second[10_000_000])
    assert len(np.unique(np.concatenate([b["draw"] for b in batches]))) == 48


@pytest.mark.parametrize("max_table", [shuffle.MAX_TABLE, 0])
def test_each_epoch_has_every_sample_once_in_a_new_order(monkeypatch, max_table):
    monkeypatch.setattr(shuffle, "MAX_TABLE", max_table)
    batches = build_group(ready(5), 0, [Numbers(10)])
    epochs = [
        np.concatenate([batches[2 * e]["number"], batches[2 * e + 1]["number"]]) for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


def test_neighbouring_seeds_share_no_epoch():
    orders = [
        build_group(ready(10), seed, [Numbers(10)])[epoch]["number"].tolist()
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 9


def test_sources_mix_by_weight():
    batches = build_group(config(), 0)
    rows = [batches[i] for i in range(25)]
    source = np.concatenate([b["source"] for b in rows])
    number = np.concatenate([b["number"] for b in rows])
    np.testing.assert_array_equal(source, number >= 100)
    assert abs(source.mean() - 0.25) < 0.01
    even = OpenGroup(config()).batches(0, [(0, (1, 1))])
    assert np.concatenate([even[i]["source"] for i in range(10)]).mean() == 0.5


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_have_contiguous_blocks_of_one_batch(hosts):
    whole = build_group(config(), 1)
    parts = [build_group(config(), 1, rows=(h, hosts)) for h in range(hosts)]
    for i in (0, 3):
        joined = {k: np.concatenate([part[i][k] for part in parts]) for k in whole[i]}
        assert equal(joined, whole[i])


def test_damaged_samples_are_replaced_the_same_way_every_time():
    sources = [Numbers(10, bad=(4,))]
    batches = [build_group(ready(10), 0, sources)[0] for _ in range(2)]
    assert equal(*batches)
    numbers = batches[0]["number"].tolist()
    assert len(numbers) == 10 and set(numbers) == set(range(10)) - {4}


def test_one_sample_is_enough():
    assert build_group(ready(3), 0, [Numbers(1)])[4]["number"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": []}, "g.sources: empty; name at least one"),
        ({"batch_size": 0}, "g.batch_size: 0; give a positive int"),
        ({"batch_size": 2.5}, "g.batch_size: 2.5"),
        ({"batch_size": 9}, "g.batch_size: 9 does not divide over 2 hosts"),
        (
            {"sources": [{"fn": "mixture_parts:Numbers"}]},
            "g.sources[0]: missing a required argument",
        ),
        ({"sources": [{"fn": "mixture_parts:Numbers", "count": 0}]}, "'numbers' has no samples"),
        (
            {"sources": [{"fn": "builtins:list"}]},
            "g.sources[0].fn: builtins:list gave list, not a source",
        ),
        (
            {"sources": [{"fn": "mixture_parts:Numbers", "count": 1, "weight": 0}]},
            "g.sources[0].weight: 0; give a positive",
        ),
        (
            {"sources": [{"fn": "mixture_parts:Numbers", "count": 1, "colour": 1}]},
            "no argument 'colour'",
        ),
        ({"transform": {"fn": "mixture_parts:padded"}}, "g.sources[1] (numbers)/number: int32 [3]"),
        (
            {"transform": {"fn": "intern_jax.data.make.views:classification"}},
            "g.transform: missing a required argument: 'size'",
        ),
        (
            {
                "sources": [{"fn": "mixture_parts:Numbers", "count": 1}],
                "transform": {"fn": "intern_jax.data.make.views:classification", "size": 60000},
                "batch_size": 2,
            },
            "g.batch_size: ",
        ),
    ],
)
def test_mistakes_stop_at_the_start(changes, said, monkeypatch):
    # So small a limit that no large picture need be made.
    if changes.get("batch_size") == 2:
        monkeypatch.setattr(mixture, "MAX_BATCH_BYTES", 1000)
        changes["transform"]["size"] = 64
    with pytest.raises(UserError) as error:
        build_group(config(**changes), 0, rows=(0, 2), where="g")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_row_of_another_form_stops_with_its_field():
    def fails(transform, said):
        batches = build_group(
            {"batch_size": 10, "transform": transform}, 0, [Numbers(10)], where="g"
        )
        with pytest.raises(UserError, match=said) as error:
            batches[0]
        assert "\n" not in str(error.value)

    def longer(sample, _rng):
        return {"x": np.zeros(2 + (sample["label"] == 5))}

    def wider(sample, _rng):
        return {"x": np.zeros(2, np.float64 if sample["label"] == 5 else np.float32)}

    def richer(sample, _rng):
        return {"x": 0.0} | ({"y": 0.0} if sample["label"] == 5 else {})

    fails(longer, r"g.transform/x: a row has float64 \[[23]\], another float64 \[[23]\]; rows must")
    fails(wider, r"g.transform/x: a row has float")
    fails(richer, r"g.transform: a row has x, .*another x")


def test_labels_and_first_sample_are_checked():
    source = Numbers(5)
    source.classes, source.labels = ("a", "b", "c"), np.arange(5, dtype=np.int32)
    with pytest.raises(UserError, match=r"g.sources\[0\] \(numbers\)/label: 3 at index 3"):
        build_group(ready(8), 0, [source], where="g")
    source = Numbers(5, first=2)
    source.classes = ("a", "b")
    with pytest.raises(UserError, match=r"numbers\)?/2/label: 2 is outside 0\.\.1"):
        build_group(ready(8), 0, [source], where="g")


def test_group_sources_keeps_their_order():
    assert [len(source) for source in group_sources(config())] == [10, 7]


def test_making_batches_starts_no_backend():
    code = (
        "import test_mixture as t; from intern_jax.data.batches.mixture import build_group;"
        "build_group(t.config(), 0)[0]; import sys;"
        "bridge = sys.modules.get('jax._src.xla_bridge');"
        "sys.exit(bridge is not None and bridge.backends_are_initialized())"
    )
    here = pathlib.Path(__file__)
    paths = [str(here.parent), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
