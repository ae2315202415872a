"""Sources that begin and end at steps change nothing of the others' order, also after a roll-back and in workers."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.data.batches.segments import Place, Segment, opened, place, scheduled
from intern_jax.data.batches.settings import Group
from intern_jax.data.batches.stream import Stream

PARTS = '''
import numpy as np


class Numbers:
    """Samples that say their number."""

    family, classes, labels = "classification", (), None

    def __init__(self, name, count=23):
        self.name, self.keys = name, [str(i) for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return {"image": np.zeros((1, 1, 3), np.uint8), "label": index, "key": str(index)}


def number(sample, rng):
    return {"number": np.int32(sample["label"]), "draw": rng.random()}
'''
STEPS = 30


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory):
    """Puts a module where spawned processes find it too."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "schedule_parts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def source(name, **fields):
    return {"fn": "schedule_parts:Numbers", "name": name, **fields}


OLD = (source("a", weight=3.0), source("b", count=11))


def group(*sources, **fields):
    transform = {"fn": "schedule_parts:number"}
    cfg = {"sources": list(sources), "batch_size": 8, "transform": transform, **fields}
    return schema.checked(Group, cfg, "g")


def stream(*sources, seed=1, **settings):
    groups = {"cls": group(*sources)}
    return Stream(groups, scheduled(groups, seed), rows=(0, 1), **settings)


def drawn(made, steps=range(STEPS), count=3):
    """The numbers that each source gave in these steps, in their order."""
    batches = [made.batch_at(step)["cls"] for step in steps]
    rows = [np.concatenate([batch[f] for batch in batches]) for f in ("source", "number")]
    return [rows[1][rows[0] == i].tolist() for i in range(count)]


def begins_with(longer, shorter):
    return longer[: len(shorter)] == shorter


def test_a_source_that_begins_later_changes_nothing_of_the_others_order():
    without, added = stream(*OLD), stream(*OLD, source("c", begin=10, weight=4.0))
    alone = stream(source("c"))
    one, two = drawn(without), drawn(added)
    # Until step 10 even the rows are the same.
    for step in range(10):
        before, after = (made.batch_at(step)["cls"] for made in (without, added))
        assert all(np.array_equal(before[f], after[f]) for f in before)
    for i in range(2):
        assert len(two[i]) < len(one[i]) and begins_with(one[i], two[i])
    assert begins_with(drawn(alone)[0], two[2]) and len(two[2]) == (STEPS - 10) * 4
    assert [len(two[i]) for i in range(2)] == [60 + 60, 20 + 20]


def test_a_source_s_place_in_the_list_does_not_change_the_others_order():
    first, last = stream(source("c"), *OLD), stream(*OLD, source("c"))
    one, two = drawn(first), drawn(last)
    assert one[1:] == two[:2] and one[0] == two[2]


def test_a_source_that_ends_leaves_its_share_to_the_others():
    made = stream(*OLD, source("c", begin=4, end=9, weight=4.0), source("d", begin=9, weight=4.0))
    steps = {step: made.batch_at(step)["cls"]["source"].tolist() for step in (3, 4, 8, 9, 20)}
    counts = {step: np.bincount(rows, minlength=4).tolist() for step, rows in steps.items()}
    assert counts == {
        3: [6, 2, 0, 0],
        **{s: [3, 1, 4, 0] for s in (4, 8)},
        9: [3, 1, 0, 4],
        20: [3, 1, 0, 4],
    }
    full = drawn(stream(*OLD), range(100), 4)
    assert all(begins_with(full[i], drawn(made, count=4)[i]) for i in range(2))


def test_another_group_s_changes_leave_a_group_as_it_is():
    groups = {"cls": group(*OLD), "other": group(*OLD, source("c", begin=7))}
    both = Stream(groups, scheduled(groups, 1), rows=(0, 1))
    alone = stream(*OLD)
    for step in (6, 7, 20):
        batch, expected = both.batch_at(step)["cls"], alone.batch_at(step)["cls"]
        assert all(np.array_equal(batch[f], expected[f]) for f in expected)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_have_blocks_of_one_batch_whatever_the_mixture(hosts):
    sources = [source(f"s{i}", count=3 + 7 * i, begin=5 * (i == 2)) for i in range(9)]
    groups = {"cls": group(*sources, temperature=2.0)}
    segments = scheduled(groups, 1)
    whole = Stream(groups, segments, rows=(0, 1))
    made = [Stream(groups, segments, rows=(host, hosts)) for host in range(hosts)]
    for step in (0, 4, 5, 999):
        expected = whole.batch_at(step)["cls"]
        for field, value in expected.items():
            joined = np.concatenate([one.batch_at(step)["cls"][field] for one in made])
            np.testing.assert_array_equal(joined, value)


def test_a_roll_back_keeps_what_is_scheduled_and_comes_back_from_a_checkpoint():
    late = source("c", begin=10, weight=4.0)
    made = stream(*OLD, late)
    # Trouble after step 12 is undone to step 8; steps 8 to 11 and so on read batches 12, 13, ...
    made.open_segment(8, 12)
    again = Stream({"cls": group(*OLD, late)}, rows=(0, 1))
    again.set_segments(
        [Segment(**json.loads(json.dumps(dataclasses.asdict(s)))) for s in made.segments]
    )
    assert [(s.first_step, s.offset) for s in made.segments] == [(0, 0), (8, 12), (10, 14)]
    for step in (7, 8, 9, 10, 25):
        one, two = (m.batch_at(step)["cls"] for m in (made, again))
        assert all(np.array_equal(one[f], two[f]) for f in one)
        assert (2 in one["source"]) == (step >= 10)
    # All sources go on after the batches that were left out, 8 to 11, with the rows that they had there.
    longer, found = drawn(stream(*OLD), range(60)), drawn(made)
    for i, per_batch in enumerate((6, 2)):
        left = longer[i][: 8 * per_batch] + longer[i][12 * per_batch :]
        assert begins_with(left, found[i])
    assert begins_with(drawn(stream(source("c")))[0], found[2])


def test_workers_make_the_same_batches_before_and_after_a_change_and_a_roll_back():
    sources = (*OLD, source("c", begin=4, weight=4.0))
    here = stream(*sources)
    with stream(*sources, workers=1) as there:
        for first in (0, 3):
            if first:
                for made in (here, there):
                    made.open_segment(3, 6)
            with there.iterate(first) as batches:
                for step in range(first, 7):
                    batch, expected = next(batches)["cls"], here.batch_at(step)["cls"]
                    assert all(np.array_equal(batch[f], expected[f]) for f in expected)


def test_segments_say_where_every_step_s_batch_lies():
    groups = {"cls": group(*OLD, source("c", begin=10)), "one": group(OLD[0])}
    first, then = {"cls": (3.0, 1.0, 0.0)}, {"cls": (3.0, 1.0, 1.0)}
    made = scheduled(groups, 5)
    assert made == [Segment(0, 0, 5, first), Segment(10, 10, 5, then)]
    assert scheduled({"one": groups["one"], "ready": object()}, 5) == [Segment(seed=5)]
    assert place(made, 9) == Place(5, ((0, first),), 9)
    assert place(made, 12) == Place(5, ((0, first), (10, then)), 12)
    # A roll-back after the change cuts nothing; one across it moves the cut.
    assert place(opened(made, 15, 20), 16) == Place(5, ((0, first), (10, then)), 21)
    assert place(opened(made, 6, 12), 11) == Place(5, ((0, first), (16, then)), 17)
    # A later roll-back forgets the earlier jump.
    assert opened(opened(made, 6, 12), 3, 30) == opened(made, 3, 30)
    # Another seed starts afresh, and batches that are read again count once.
    assert place([*made, Segment(20, 4, 6, then)], 21) == Place(6, ((0, then),), 5)
    assert place([*made, Segment(20, 4, 5, then)], 21) == Place(5, ((0, first), (4, then)), 5)


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([source("a", begin=1)], r"g.sources: none from step 0 on"),
        ([source("a", end=5), source("b", begin=6)], r"g.sources: none from step 5 on"),
        ([source("a", end=5), source("b", begin=2, end=2)], r"g.sources\[1\].end: 2; write a step"),
        ([source("a", begin=-1)], r"g.sources\[0\].begin: -1; write a whole number of at least 0"),
    ],
)
def test_mistakes_of_a_schedule(sources, said):
    with pytest.raises(UserError, match=said):
        group(*sources)


def test_weights_that_cannot_be_mixed_are_refused_before_their_step():
    groups = {"cls": group(*OLD)}
    for weights, said in (
        ((0.0, 0.0), "cls.sources: every weight is 0"),
        ((1.0, -1.0), r"cls.sources\[1\].weight: -1.0"),
        ((1.0,), "cls.weights: 1 for 2 sources"),
    ):
        with pytest.raises(UserError, match=said):
            Stream(groups, [Segment(), Segment(50, 50, weights={"cls": weights})], rows=(0, 1))
