"""Damage is counted by cause and replaced the same way everywhere, and too much of it stops."""

import collections
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches import replacing
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.processes import exits


class Numbers:
    """Samples that are their number, but for what `damage` {index: an error or fields} says."""

    family, labels, name = "classification", None, "numbers"

    def __init__(self, count, damage=(), classes=()):
        self.count, self.damage, self.classes = count, dict(damage), classes
        self.keys = [f"k{i}" for i in range(count)]
        self.reads = []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        damage = self.damage.get(index, {})
        if isinstance(damage, Exception):
            raise damage
        image = np.full((4, 4, 3), index % 256, np.uint8)
        return {"image": image, "label": 0, "key": self.keys[index], **damage}


def truncated(index):
    return CorruptSample(f"k{index}", "truncated picture")


def test_a_stand_in_is_a_function_of_the_index():
    damage = {i: truncated(i) for i in range(100, 300)}
    source = Replacing(Numbers(1000, damage), limit=1.0)
    first = [source[i]["key"] for i in range(100, 300)]
    again = Replacing(Numbers(1000, damage), limit=1.0)
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(lambda i: again[i]["key"], reversed(range(100, 300))))
    assert backwards[::-1] == first
    # A block of damage, as a lost shard leaves, is replaced from all over the source.
    assert len(set(first)) > 150 and not set(first) & {f"k{i}" for i in damage}
    assert [source[i]["key"] for i in (0, 99, 300, 999)] == ["k0", "k99", "k300", "k999"]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 97])
def test_the_last_good_sample_is_found(count):
    for good in (0, count - 1):
        damage = {i: truncated(i) for i in range(count) if i != good}
        source = Replacing(Numbers(count, damage), limit=1.0)
        assert {source[i]["key"] for i in range(count)} == {f"k{good}"}


@pytest.mark.parametrize("count", [1, 5, 100_000])
def test_nothing_good_ends_in_one_line(count):
    class Broken(Numbers):
        def __getitem__(self, index):
            self.reads.append(index)
            raise truncated(index)

    source = Replacing(Broken(count), limit=1.0)
    with pytest.raises(
        UserError, match=r"numbers: sample 0 and all .*: truncated picture"
    ) as error:
        source[0]
    assert "\n" not in str(error.value) and "as k0" in str(error.value)
    assert len(source.source.reads) == len(set(source.source.reads)) == min(count, 101)


def test_counts_are_exact_from_several_threads():
    damage = {i: truncated(i) for i in range(0, 1000, 10)}
    damage.update({i: CorruptSample("x", "empty file") for i in range(5, 1000, 100)})
    numbers = Numbers(1000, damage)
    source = Replacing(numbers, limit=1.0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.__getitem__, [*range(1000)] * 3))
    # Each is read three times or more, and counts once.
    assert source.faults() == collections.Counter(fault.cause for fault in damage.values())
    assert sum(i in damage for i in numbers.reads) >= 3 * len(damage)


def test_the_first_of_each_cause_is_logged(caplog):
    damage = {1: truncated(1), 2: truncated(2), 3: CorruptSample("k3", "empty file", "0 bytes")}
    source = Replacing(Numbers(500, damage), limit=1.0)
    with caplog.at_level(logging.WARNING):
        for i in (1, 2, 3):
            source[i]
    assert [r.getMessage().split(";")[0] for r in caplog.records] == [
        "k1: truncated picture",
        "k3: empty file (0 bytes)",
    ]


def reads_until_it_stops(source, most):
    for i in range(most):
        try:
            source[i % len(source)]
        except UserError as error:
            return i + 1, str(error)
    return None


def test_above_the_limit_the_run_stops_with_what_to_do():
    damage = {i: truncated(i) for i in range(0, 1000, 25)}
    damage[1] = CorruptSample("k1", "empty file")
    reads, said = reads_until_it_stops(Replacing(Numbers(1000, damage), limit=0.01), 5000)
    assert 900 < reads <= 1000
    assert said.startswith("numbers: 4.") and "above 1.0%" in said
    assert "truncated picture" in said and "(as k0), empty file 1 (as k1)" in said
    assert said.endswith("repair or remove such samples") and "\n" not in said


@pytest.mark.parametrize("count", [20, 80, 90])
def test_one_bad_sample_of_a_small_source_stops_no_run(count):
    source = Replacing(Numbers(count, {7: truncated(7)}), limit=0.01)
    assert reads_until_it_stops(source, 150_000) is None
    assert source.faults() == {"truncated picture": 1}


def test_many_bad_samples_of_a_small_source_stop_the_run():
    source = Replacing(Numbers(20, {i: truncated(i) for i in range(4)}), limit=0.01)
    reads, said = reads_until_it_stops(source, 5000)
    assert reads <= 1000 and said.startswith(
        "numbers: 20.0% of the samples are damaged, above 1.0%"
    )


def test_a_sample_that_can_be_read_again_is_no_damage():
    numbers = Numbers(20, {i: truncated(i) for i in range(4)})
    source = Replacing(numbers, limit=0.01)
    for index in range(20):
        source[index]
    numbers.damage = {}
    assert reads_until_it_stops(source, 5000) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        MemoryError("no room"),
        RuntimeError("open() failed: Too many open files"),
        CorruptSample("k3", "unreadable file", "Too many open files"),
    ],
    ids=["files", "memory", "C++", "wrapped"],
)
def test_a_process_without_files_or_memory_is_no_damage(monkeypatch, error):
    monkeypatch.setattr(replacing, "PAUSES", (0.0, 0.0))
    if isinstance(error, CorruptSample):
        error.__cause__ = OSError(24, "Too many open files")
    left = [2]

    class Short(Numbers):
        def __getitem__(self, index):
            left[0] -= index == 3
            if index == 3 and left[0] >= 0:
                raise error
            return super().__getitem__(index)

    source = Replacing(Short(20), limit=0.01)
    assert source[1]["key"] == "k1" and source[3]["key"] == "k3" and not source.faults()
    left[0] = 3
    with pytest.raises(exits.MachineFault, match="numbers/k3: ") as caught:
        source[3]
    assert "\n" not in str(caught.value) and not source.faults()


def test_below_the_limit_no_run_stops_by_chance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        damage = {int(i): truncated(i) for i in rng.choice(2000, 18, replace=False)}
        assert reads_until_it_stops(Replacing(Numbers(2000, damage), limit=0.01), 4000) is None


def test_a_disk_that_dies_late_is_noticed():
    numbers = Numbers(1000)
    source = Replacing(numbers, limit=0.01)
    assert reads_until_it_stops(source, 60_000) is None
    numbers.damage = {i: truncated(i) for i in range(500)}
    reads, _ = reads_until_it_stops(source, 5000)
    assert reads < 1500


def annotated(**changes):
    fields = {
        "boxes": np.asarray([[0, 0, 4, 4]], np.float32),
        "box_labels": np.asarray([1], np.int32),
        "mask": np.zeros((4, 4), np.uint8),
        "depth": np.ones((4, 4), np.float32),
        "depth_valid": np.ones((4, 4), np.bool_),
    }
    return {**fields, **changes}


DAMAGED_ANNOTATIONS = {
    "mask": [
        np.zeros((4, 5), np.uint8),
        np.full((4, 4), 3, np.uint8),
        np.zeros((4, 4, 3), np.uint8),
    ],
    "label": [3, -1, "cat"],
    "boxes": [np.asarray([[0, 0, 9, 4]], np.float32), np.asarray([[2, 0, 1, 4]], np.float32)],
    "box_labels": [np.asarray([7], np.int32), np.asarray([], np.int32)],
    "depth": [np.full((4, 4), np.nan, np.float32), np.full((4, 4), np.inf, np.float32)],
    "depth_valid": [np.ones((3, 4), np.bool_)],
    "image": [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), None],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in DAMAGED_ANNOTATIONS.items() for value in values],
)
def test_a_damaged_annotation_is_a_mistake_at_the_start_and_damage_later(field, value):
    damage = {i: annotated() for i in range(40)}
    damage[7] = annotated(**{field: value})
    classes = ("a", "b", "c")
    source = Replacing(Numbers(40, damage, classes), limit=1.0)
    assert source[0]["key"] == "k0" and source[7]["key"] != "k7"
    assert source.faults() == {f"bad {field}": 1}
    fresh = Replacing(Numbers(40, damage, classes), limit=1.0, where="train.sources[0]")
    with pytest.raises(UserError, match=rf"^train\.sources\[0\]/k7/{field}.*;"):
        fresh[7]
    assert fresh.faults() == {}


def test_a_run_goes_on_over_damaged_annotations_and_refuses_them_first():
    classes = ("a", "b")
    damage = {3: {"label": 9}, 5: {"texts": []}, 8: truncated(8)}
    group = {
        "batch_size": 10,
        "transform": lambda sample, _rng: {"number": sample["image"][0, 0, 0].astype(np.int32)},
    }
    batches = [
        build_group(group, 0, [Numbers(10, damage, classes)])[i]["number"].tolist()
        for i in (0, 1, 0)
    ]
    assert batches[0] == batches[2] and all(len(batch) == 10 for batch in batches)
    assert {*batches[0], *batches[1]} == {0, 1, 2, 4, 6, 7, 9}
    with pytest.raises(UserError, match=r"k0/label: 9 is outside 0\.\.1"):
        build_group(group, 0, [Numbers(10, {0: {"label": 9}}, classes)])


def test_a_reader_that_fails_is_an_error_at_the_start_and_damage_later():
    damage = {4: KeyError("caption"), 6: RuntimeError("two\nlines")}
    source = Replacing(Numbers(40, damage), limit=1.0)
    with pytest.raises(KeyError):
        source[4]
    assert source[0]["key"] == "k0" and source[4]["key"] != "k4" and source[6]["key"] != "k6"
    assert source.faults() == {"reader failed": 2}


def test_an_interrupt_is_no_damage():
    class Interrupted(Numbers):
        def __getitem__(self, index):
            raise KeyboardInterrupt

    source = Replacing(Interrupted(4))
    with pytest.raises(KeyboardInterrupt):
        source[0]
    assert source.faults() == {}
