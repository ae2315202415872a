"""The block shuffle: every record once an epoch, reads near each other, rows from many blocks."""

import sys

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.shuffle import BlockOrder, FullOrder

SHARDS = (100, 37, 0, 64, 1, 150)
COUNT = sum(SHARDS)


class Shards:
    """Records that say their number, in files of several sizes."""

    name, family, classes, labels, shards = "shards", "classification", (), None, list(SHARDS)
    keys = tuple(str(i) for i in range(COUNT))

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        image = np.zeros((2, 2, 3), np.uint8)
        return {"image": image, "label": index, "key": self.keys[index]}


def number(sample, _rng):
    return {"number": np.int32(sample["label"])}


sys.modules["shuffle_parts"] = sys.modules[__name__]


def config(**changes):
    source = {"fn": "shuffle_parts:Shards", "shuffle": {"block": 16, "window": 4}}
    transform = {"fn": "shuffle_parts:number"}
    return {"sources": [source], "batch_size": 8, "transform": transform, **changes}


def epoch_of(order, epoch):
    return np.array([order(epoch, position) for position in range(order.count)])


@pytest.mark.parametrize("block", [1, 16, 1000])
@pytest.mark.parametrize("window", [1, 4, 1000])
def test_every_record_comes_once_an_epoch_in_another_order_each(block, window):
    order = BlockOrder(SHARDS, 3, block, window)
    epochs = [epoch_of(order, epoch) for epoch in (0, 1, 7)]
    for records in epochs:
        np.testing.assert_array_equal(np.sort(records), np.arange(COUNT))
    assert not np.array_equal(epochs[0], epochs[1])
    again = BlockOrder(SHARDS, 3, block, window)
    # Any position first: nothing depends on what was asked before.
    for epoch, position in ((7, 200), (0, 351), (1, 0), (7, 3)):
        assert again(epoch, position) == epochs[(0, 1, 7).index(epoch)][position]
    assert not np.array_equal(epoch_of(BlockOrder(SHARDS, 4, block, window), 0), epochs[0])


def test_a_window_reads_few_runs_and_mixes_them():
    shards, block, window = [640] * 16, 64, 8
    order = BlockOrder(shards, 0, block, window)
    records = epoch_of(order, 0)
    assert records.dtype.kind == "i"
    windows = records.reshape(-1, block * window)
    used = []
    for inside in windows:
        blocks, counts = np.unique(inside // block, return_counts=True)
        # A window is whole blocks: that many contiguous runs of records, each read to its end.
        assert len(blocks) == window and (counts == block).all()
        used.append(set(blocks))
        # 64 neighbours in order would come from 8 (1 - (7/8)^64) = 7.998 blocks of 8 by chance.
        parts = (inside // block).reshape(-1, 64)
        assert np.mean([len(set(part)) for part in parts]) > 7.9
        # Steps inside a block are as of shuffled records: neighbours by chance only.
        assert np.mean(np.abs(np.diff(inside)) == 1) < 0.02
    assert not any(a & b for i, a in enumerate(used) for b in used[:i])
    # Which blocks share a window changes with the epoch.
    later = epoch_of(order, 1).reshape(windows.shape)
    assert not any(set(inside // block) in used for inside in later)
    # Records stored class by class, 16 of them: 64 neighbours have 16 (1 - (15/16)^8) = 6.5 classes,
    # as many as their 8 blocks.
    classes = np.mean([len(set(part // 640)) for part in records.reshape(-1, 64)])
    assert 5.5 < classes < 7.5


def test_no_table_grows_with_the_records():
    order = BlockOrder([10**6] * 1000, 0, 1024, 16)
    assert order.count == 10**9
    first = [order(2, 987_654_321 + i) for i in range(3)]
    assert first == [BlockOrder([10**6] * 1000, 0, 1024, 16)(2, 987_654_321 + i) for i in range(3)]
    blocks, _ = order._blocks(2)
    assert len(blocks) == 1000 * -(-(10**6) // 1024)
    assert len(order._records(2, 5)) <= 16 * 1024


def test_the_full_shuffle_is_numpys_permutation_of_seed_and_epoch():
    expected = np.random.default_rng((5, 2)).permutation(COUNT)
    np.testing.assert_array_equal(epoch_of(FullOrder(COUNT, 5), 2), expected)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_have_blocks_of_the_same_batches(hosts):
    whole = build_group(config(), 1)
    parts = [build_group(config(), 1, rows=(h, hosts)) for h in range(hosts)]
    for step in (0, 5, 44, 1000):
        joined = np.concatenate([part[step]["number"] for part in parts])
        np.testing.assert_array_equal(joined, whole[step]["number"])


def test_a_group_reads_every_record_once_an_epoch_file_by_file():
    # One block a file, one in a window: a file is read to its end before another is begun.
    source = {"fn": "shuffle_parts:Shards", "shuffle": {"block": 1000, "window": 1}}
    batches = build_group(config(sources=[source], batch_size=COUNT), 0)
    orders = []
    for epoch in range(2):
        records = batches[epoch]["number"]
        np.testing.assert_array_equal(np.sort(records), np.arange(COUNT))
        files = np.searchsorted(np.cumsum(SHARDS), records, side="right")
        assert np.count_nonzero(np.diff(files)) == np.count_nonzero(SHARDS) - 1
        orders.append(files.tolist())
    assert orders[0] != orders[1]


def test_the_groups_shuffle_is_that_of_sources_without_one():
    plain = {"fn": "shuffle_parts:Shards"}
    blocks = {"block": 16, "window": 4}
    by_source = build_group(config(), 0)[3]["number"]
    by_group = build_group(config(sources=[plain], shuffle=blocks), 0)[3]["number"]
    full = build_group(config(sources=[plain]), 0)[3]["number"]
    named = build_group(config(sources=[{**plain, "shuffle": "full"}], shuffle=blocks), 0)
    ready = build_group(config(shuffle=blocks), 0, sources=[Shards()])[3]["number"]
    np.testing.assert_array_equal(by_group, by_source)
    np.testing.assert_array_equal(ready, by_source)
    np.testing.assert_array_equal(named[3]["number"], full)
    assert not np.array_equal(full, by_source)


@pytest.mark.parametrize(
    ("shuffle", "said"),
    [
        ("blocks", r"g.sources\[0\].shuffle: 'blocks'; give 'full' or"),
        ({"blok": 3}, "shuffle: {'blok': 3}; give 'full' or"),
        ({"block": 0}, "shuffle.block: 0; give a positive int"),
        ({"window": 1.5}, "shuffle.window: 1.5; give a positive int"),
    ],
)
def test_mistakes(shuffle, said):
    source = {"fn": "shuffle_parts:Shards", "shuffle": shuffle}
    with pytest.raises(UserError, match=said):
        build_group(config(sources=[source]), 0, where="g")
