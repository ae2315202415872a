"""A group is a grain.MapDataset, and a user's Grain datasets and transforms are sources and transforms."""

import sys

import grain
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.batches.datasets import MapSource, as_transform
from intern_jax.data.batches.mixture import build_group, group_sources
from intern_jax.data.batches.stream import Segment, Stream
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.schema.source import Source

PARTS = """
import grain
import numpy as np
from intern_jax.data.make.views import classification

def sample(number):
    image = np.random.default_rng(number).integers(0, 256, (9, 11, 3), np.uint8)
    return {"image": image, "label": number % 5}

def pictures(count, first=0):
    return grain.MapDataset.range(first, first + count).shuffle(seed=7).map(sample)

def filtered(count):
    return grain.MapDataset.range(count).filter(lambda n: n != 3).map(sample)

def endless():
    return pictures(4).repeat()

def numbers():
    return grain.MapDataset.range(4)

class View(grain.transforms.RandomMap):
    def __init__(self, size):
        self.size = size

    def random_map(self, sample, rng):
        return {**classification(sample, rng, size=self.size), "draw": rng.random(2)}

class Small(grain.transforms.Map):
    def map(self, sample):
        return {"image": sample["image"][:4, :4], "label": np.int32(sample["label"])}

class Keep(grain.transforms.Filter):
    def filter(self, sample):
        return True

small = Small()
keep = Keep()
"""
SPEC = {"fn": "grain_parts:pictures", "count": 24, "classes": tuple("abcde")}
NAMED = {"name": "theirs", "keys": [f"k{i}" for i in range(24)], "labels": [0] * 24}


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory):
    """Puts a module where spawned processes find it too."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "grain_parts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def group(**changes):
    other = {"fn": "grain_parts:pictures", "count": 9, "first": 100, "weight": 0.5, "name": "more"}
    return {
        "sources": [SPEC, {**other, "classes": tuple("abcde"), "shuffle": {"block": 2}}],
        "batch_size": 8,
        "transform": {"fn": "grain_parts:View", "size": 6},
        **changes,
    }


def assert_same(batch, expected):
    assert batch.keys() == expected.keys()
    for field, value in expected.items():
        np.testing.assert_array_equal(batch[field], value, strict=True)


@pytest.mark.medium
@pytest.mark.parametrize("transform", ["View", "Small", "small"])
def test_threads_workers_and_hosts_give_one_batch(transform):
    size = {"size": 6} if transform == "View" else {}
    groups = {"cls": group(transform={"fn": f"grain_parts:{transform}", **size})}
    here = Stream(groups, [Segment(seed=3)])
    expected = [here.batch_at(t)["cls"] for t in range(6)]
    assert {0, 1} == set(np.concatenate([batch["source"] for batch in expected]).tolist())
    for workers in (0, 1):
        hosts = [Stream(groups, [Segment(seed=3)], (h, 2), workers=workers) for h in range(2)]
        for start in (0, 4):
            read = []
            for host in hosts:
                with host.iterate(start) as batches:
                    read.append([next(batches)["cls"] for _ in range(2)])
            for t, both in enumerate(zip(*read, strict=True), start):
                joined = {k: np.concatenate([part[k] for part in both]) for k in both[0]}
                assert_same(joined, expected[t])
        for host in hosts:
            host.close()


def test_a_map_dataset_is_a_source_with_what_is_said_beside_its_function():
    source, more = group_sources(group(sources=[SPEC, {**SPEC, **NAMED, "family": "detection"}]))
    assert isinstance(source, Source) and isinstance(source, MapSource) and len(source) == 24
    assert (source.name, source.family, source.labels) == ("pictures", "classification", None)
    assert source[5]["key"] == source.keys[5] == "pictures/5" and source.classes == tuple("abcde")
    assert (more.name, more.family, more[5]["key"]) == ("theirs", "detection", "k5")
    assert more.labels.dtype == np.int32
    assert fingerprint(source) == fingerprint(group_sources(group())[0]) != fingerprint(more)


def test_a_map_dataset_s_own_attributes_count_and_those_given_more():
    dataset = grain.MapDataset.source([{"image": np.zeros((2, 2, 3), np.uint8), "key": "x"}] * 3)
    dataset.name, dataset.classes, dataset.fingerprint = "own", ["a"], lambda: "first"
    source = MapSource(dataset, "pictures", classes=["a", "b"])
    assert source.name == "own" and source.classes == ("a", "b") and source[0]["key"] == "x"
    first = fingerprint(source)
    dataset.fingerprint = lambda: "second"
    assert fingerprint(source) != first


def test_transforms_that_are_objects():
    import grain_parts

    batches = build_group(group(transform=grain_parts.small), 0)
    assert_same(batches[2], build_group(group(transform={"fn": "grain_parts:small"}), 0)[2])


def test_a_group_is_a_map_dataset():
    batches = build_group(group(), 5)
    assert isinstance(batches, grain.MapDataset) and len(batches) > 10**15
    tail = iter(batches[3:])
    assert_same(next(tail), batches[3])
    assert_same(next(tail), batches[4])
    assert_same(batches[1::2][2], batches[5])
    (parent,) = batches.parents
    assert_same(
        {k: np.asarray(v) for k, v in parent[9].items()}, {k: v[1] for k, v in batches[1].items()}
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": [{**SPEC, "labels": [1, 2]}]}, "pictures/labels: 2 for 24 elements"),
        (
            {"sources": [{**SPEC, "labels": [9] * 24}]},
            "pictures/label: 9 at index 0 is outside 0..4",
        ),
        (
            {"sources": [{**SPEC, "family": "words"}]},
            "pictures/family: no family 'words'; known: classif",
        ),
        ({"sources": [{**SPEC, "colour": 1}]}, "grain_parts:pictures: no argument 'colour'"),
        (
            {"sources": [{"fn": "grain_parts:pictures"}]},
            "g.sources[0]: missing a required argument",
        ),
        (
            {"sources": [{"fn": "grain_parts:endless"}]},
            "endless: repeats without end; give one epoch",
        ),
        (
            {"sources": [{"fn": "grain_parts:numbers"}]},
            "numbers/0: int is not a sample; map elements",
        ),
        (
            {"sources": [{"fn": "intern_jax.data.embedded.tables:fashion_pool", "name": "x"}]},
            "tables:fashion_pool: no argument 'name'",
        ),
        (
            {"transform": {"fn": "grain_parts:keep"}},
            "g.transform: Keep; give a function of (sample",
        ),
        (
            {"transform": {"fn": "grain_parts:Keep"}},
            "g.transform: Keep; give a function of (sample",
        ),
        (
            {"transform": {"fn": "grain_parts:View"}},
            "g.transform: missing a required argument: 'size'",
        ),
        ({"transform": {"fn": "grain_parts:View", "sise": 6}}, "no argument 'sise'; did you mean"),
        (
            {"transform": {"fn": "grain_parts:small", "size": 6}},
            "grain_parts:small': not a function",
        ),
    ],
)
def test_mistakes_are_one_line(changes, said):
    with pytest.raises(UserError) as error:
        build_group(group(**changes), 0, where="g")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_a_filter_drops_is_counted_as_damage():
    (source,) = group_sources(group(sources=[{"fn": "grain_parts:filtered", "count": 6}]))
    with pytest.raises(CorruptSample, match="filtered/3: no element"):
        source[3]


def test_a_callable_is_the_transform_itself():
    def view(_sample, _rng):
        return {}

    assert as_transform(view, "g") is view
