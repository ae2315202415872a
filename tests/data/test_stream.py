"""The stream replays any step, reads ahead in order, passes errors on, and ends its threads."""

import dataclasses
import json
import sys
import threading
import time

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import ArrayStream
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.data.schema.fingerprints import fingerprint


class Batches:
    """Ready batches that say their index; some fail, all may be slow."""

    def __init__(self, fails=(), seconds=0.0):
        self.fails, self.seconds = fails, seconds

    def __getitem__(self, index):
        time.sleep(self.seconds)
        if index in self.fails:
            raise UserError(f"batch {index}: cannot be made")
        return {"x": np.arange(4) + 10 * index}


class Numbers:
    name, family, classes, labels = "numbers", "classification", (), None

    def __init__(self, count: int = 12):
        self.keys = [str(i) for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return {"image": np.full((4, 4, 3), index, np.uint8), "label": index, "key": str(index)}


def config():
    return {
        "sources": [{"fn": "stream_parts:Numbers"}, {"fn": "stream_parts:Numbers", "count": 7}],
        "batch_size": 6,
        "transform": {"fn": "intern_jax.data.make.views:classification", "size": 4},
    }


# Importable under one name whatever pytest calls this file.
sys.modules["stream_parts"] = sys.modules[__name__]


def equal(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[g][k], b[g][k]) for g in a for k in {**a[g], **b[g]}
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def test_iterating_equals_batch_at_from_any_start():
    with Stream({"cls": config(), "ready": Batches()}, [Segment(seed=3)], threads=3) as stream:
        expected = [stream.batch_at(t) for t in range(9)]
        assert expected[0]["cls"]["image"].shape == (6, 4, 4, 3)
        assert expected[0]["cls"]["image"].dtype == np.uint8
        for start in (0, 5):
            for t, batch in enumerate(take(stream.iterate(start), 9 - start), start):
                assert equal(batch, expected[t])
    again = Stream({"cls": config(), "ready": Batches()}, [Segment(seed=3)])
    assert equal(again.batch_at(7), expected[7])


def test_segments_move_the_position_and_the_seed():
    plain = Stream({"cls": config()}, [Segment(seed=1)])
    other = Stream({"cls": config()}, [Segment(seed=2)])
    moved = Stream({"cls": config()}, [Segment(seed=1), Segment(first_step=4, offset=10, seed=2)])
    assert equal(moved.batch_at(3), plain.batch_at(3))
    assert equal(moved.batch_at(4), other.batch_at(10))
    assert equal(moved.batch_at(6), other.batch_at(12))
    weighted = Stream({"cls": config()}, [Segment(weights={"cls": (1.0, 99.0)})])
    assert weighted.batch_at(0)["cls"]["source"].mean() > 0.8


def test_a_segment_opened_later_is_as_one_given_at_the_start():
    stream = Stream({"cls": config()}, [Segment(seed=1), Segment(6, 2, seed=5)])
    ahead = stream.iterate(2)
    next(ahead)
    stream.open_segment(4, 10)
    # It has the last one's seed, and that one, which began later, is gone.
    assert stream.segments == (Segment(seed=1), Segment(4, 10, seed=5))
    assert list(ahead) == []
    given = Stream({"cls": config()}, stream.segments)
    with stream.iterate(3) as batches:
        for step, batch in enumerate(take(batches, 3), 3):
            assert equal(batch, given.batch_at(step))
    stream.open_segment(0, 3, seed=1)
    assert stream.segments == (Segment(0, 3, seed=1),)
    assert equal(stream.batch_at(1), Stream({"cls": config()}, [Segment(seed=1)]).batch_at(4))


def test_segments_come_back_from_a_checkpoint():
    weighted = Segment(3, 7, seed=2, weights={"cls": (1.0, 3.0)})
    before = Stream({"cls": config()}, [Segment(seed=1), weighted])
    kept = json.loads(json.dumps([dataclasses.asdict(s) for s in before.segments]))
    after = Stream({"cls": config()}, [Segment(seed=1)])
    after.set_segments([Segment(**s) for s in kept])
    assert equal(after.batch_at(5), before.batch_at(5))
    after.open_segment(9, 20, seed=4)
    assert after.segments[-1].weights == {"cls": [1.0, 3.0]}


def test_ready_batches_follow_segments_of_one_seed():
    stream = Stream({"ready": Batches()}, [Segment(seed=2)])
    stream.open_segment(3, 8)
    assert [stream.batch_at(t)["ready"]["x"][0] for t in (2, 3, 4)] == [20, 80, 90]
    with pytest.raises(UserError, match="stream/ready: ready batches"):
        stream.open_segment(3, 8, seed=1)
    assert len(stream.segments) == 2


def test_groups_of_one_family_have_their_own_canvas_and_draws():
    large = config()
    large["transform"] = {**large["transform"], "size": 7}
    large["batch_size"] = 4
    stream = Stream({"cls": config(), "cls_large": large}, [Segment(seed=3)])
    alone = {
        name: Stream({name: config() if name == "cls" else large}) for name in ("cls", "cls_large")
    }
    with stream, stream.iterate(2) as batches:
        for step, batch in enumerate(take(batches, 2), 2):
            assert list(batch) == ["cls", "cls_large"]
            assert batch["cls"]["image"].shape == (6, 4, 4, 3)
            assert batch["cls_large"]["image"].shape == (4, 7, 7, 3)
            for name, one in alone.items():
                one.set_segments([Segment(seed=3)])
                assert equal({name: batch[name]}, one.batch_at(step))
    weighted = Stream(
        {"cls": config(), "cls_large": large}, [Segment(weights={"cls_large": (1.0, 99.0)})]
    )
    sources = {name: fields["source"].mean() for name, fields in weighted.batch_at(0).items()}
    assert sources["cls_large"] > 0.7 > sources["cls"]


def test_array_batches_follow_the_whole_protocol():
    rows = {"x": np.arange(10), "y": np.arange(10.0)}
    stream, other = ArrayStream(rows, 4, seed=1), ArrayStream(rows, 4, seed=2)
    assert stream.segments == (Segment(seed=1),) and stream.faults() == {}
    first = [stream.batch_at(t) for t in range(12)]
    epoch = np.concatenate([batch["task"]["x"] for batch in first[:5]])
    assert sorted(epoch[:10]) == sorted(epoch[10:]) == list(range(10))
    batches = stream.iterate(3)
    assert equal(next(batches), first[3])
    batches.close()
    stream.open_segment(2, 7)
    assert equal(stream.batch_at(1), first[1]) and equal(stream.batch_at(4), first[9])
    stream.open_segment(3, 0, seed=2)
    assert equal(stream.batch_at(2), first[7]) and equal(stream.batch_at(5), other.batch_at(2))
    kept = json.loads(json.dumps([dataclasses.asdict(s) for s in stream.segments]))
    again = ArrayStream(rows, 4, seed=1)
    again.set_segments([Segment(**s) for s in kept])
    assert equal(again.batch_at(5), stream.batch_at(5))
    assert (
        fingerprint(again)
        == fingerprint(stream)
        != fingerprint(ArrayStream({"x": rows["x"]}, 4, 1))
    )
    for wrong in ([], [Segment(weights={"task": (1.0,)})]):
        with pytest.raises(UserError, match="stream/segments"):
            stream.set_segments(wrong)
    stream.close()


@pytest.mark.parametrize(
    "stream", [Stream({"ready": Batches()}), ArrayStream({"x": np.arange(4)}, 2, 0)]
)
def test_every_stream_has_what_the_loop_asks_for(stream):
    stream.open_segment(3, 5)
    stream.set_segments(stream.segments)
    batches = stream.iterate(3)
    assert equal(next(batches), stream.batch_at(3))
    batches.close()
    assert list(batches) == [] and not stream.faults()
    stream.close()


def test_hosts_have_blocks_of_every_group():
    whole = Stream({"cls": config(), "ready": Batches()}, rows=(0, 1))
    hosts = [Stream({"cls": config(), "ready": Batches()}, rows=(h, 2)) for h in range(2)]
    batch, parts = whole.batch_at(2), [host.batch_at(2) for host in hosts]
    joined = {
        g: {k: np.concatenate([part[g][k] for part in parts]) for k in batch[g]} for g in batch
    }
    assert equal(joined, batch)


def test_an_error_reaches_its_step_with_its_message():
    stream = Stream({"ready": Batches(fails=(2,))})
    batches = stream.iterate()
    assert [b["ready"]["x"][0] for b in take(batches, 2)] == [0, 10]
    with pytest.raises(UserError, match="batch 2: cannot be made") as error:
        next(batches)
    assert "step 2" in error.value.__notes__[0]
    assert list(batches) == []
    assert not _workers()


def test_close_ends_threads_and_iterators():
    stream = Stream({"ready": Batches(seconds=0.01)})
    first, second = stream.iterate(), stream.iterate(3)
    assert next(second)["ready"]["x"][0] == 30 and _workers()
    stream.close()
    assert list(first) == [] and list(second) == [] and not _workers()
    assert stream.batch_at(1)["ready"]["x"][0] == 10


def test_waiting_is_measured():
    stream = Stream({"ready": Batches(seconds=0.05)}, threads=1, prefetch=1)
    with stream.iterate() as batches:
        take(batches, 3)
    assert stream.wait_seconds > 0.1


@pytest.mark.parametrize(
    ("groups", "segments", "said"),
    [
        ({}, [Segment()], "stream/groups: empty"),
        ({"ready": Batches()}, [], "stream/segments: first steps"),
        ({"ready": Batches()}, [Segment(first_step=1)], "begin at 0"),
        (
            {"ready": Batches()},
            [Segment(), Segment(5), Segment(5)],
            "increase from one to the next",
        ),
        ({"ready": Batches()}, [Segment(offset=-1)], "offset -1"),
        ({"ready": Batches()}, [Segment(), Segment(5, seed=1)], "stream/ready: ready batches"),
        ({"cls": config()}, [Segment(weights={"seg": (1.0,)})], "weights of 'seg'; known: cls"),
        ({"cls": {"sources": []}}, [Segment()], "cls.sources: empty"),
    ],
)
def test_mistakes(groups, segments, said):
    with pytest.raises(UserError, match=said):
        Stream(groups, segments)
    with pytest.raises(UserError, match="step: -1"):
        Stream({"ready": Batches()}).batch_at(-1)


def _workers():
    return [t for t in threading.enumerate() if t.name.startswith("batches")]
