"""Kept features are the backbone's own, one example at a time; they survive a kill and damage, on any devices."""

import dataclasses
import json
import logging
import pathlib
import runpy

import jax
import numpy as np
import pytest
from forced_devices import answer_of
from PIL import Image

from intern_jax.adapt import cache as cache_lib
from intern_jax.adapt.cache import Memory, cached, key
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.make import views as transforms
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset
from intern_jax.models.backbone import LAYERS
from intern_jax.weights.model import Model

pytestmark = pytest.mark.medium

RUN = pathlib.Path(__file__).parent / "cache_run.py"
LABELLED = {"fn": "intern_jax.data.make.views:classification", "size": 16, "train": False}
DENSE = {"fn": "intern_jax.data.make.dense:dense", "size": 32, "train": False}


class Unknown:
    """Noise with labels and depth, which says nothing of its content; counts what is read."""

    name, family, classes = "noise", "classification", ("a", "b", "c")

    def __init__(self, count=21, corrupt=None, seed=0):
        self.keys = [f"{i:03d}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int32) % 3
        self.corrupt, self.read, self.seed = corrupt, [], seed

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.corrupt:
            raise CorruptSample(f"noise/{index}", "no picture")
        rng = np.random.default_rng(1000 * self.seed + index)
        image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        depth = rng.uniform(1, 5, (20, 24)).astype(np.float32)
        return {
            "image": image,
            "label": int(self.labels[index]),
            "depth": depth,
            "key": self.keys[index],
        }


class Pictures(Unknown):
    """The same, which knows its examples by key and label."""

    def examples(self):
        return [f"{k} {label} {self.seed}" for k, label in zip(self.keys, self.labels, strict=True)]


@pytest.fixture(scope="module")
def backbone():
    return Model.random({"name": "embedded_tiny"}, 0)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_lib, "SHARD", 8)


def make(backbone, source, transform=LABELLED, kept=None, outputs=("pooled",), **changes):
    settings = {"task": "cls" if outputs == ("pooled",) else "dense", "batch_size": 4}
    mesh = mesh_lib.make_mesh(data=1)
    return cached(
        backbone, source, transform, outputs=outputs, mesh=mesh, kept=kept, **settings | changes
    )


def shards(folder):
    """The one cache's files by name."""
    (inner,) = folder.iterdir()
    return {path.name: path for path in inner.iterdir()}


def shard_of(folder, example):
    """The name of the shard that has an example."""
    for name, path in shards(folder).items():
        if name.endswith(".json") and example in json.loads(path.read_text()).get("examples", ()):
            return name.removesuffix(".json")
    raise AssertionError(f"{example} is in no shard")


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("transform", "outputs", "dtype"),
    [(LABELLED, ("pooled",), np.float32), (DENSE, LAYERS, np.float16)],
)
def test_values_are_the_backbones_own(backbone, tmp_path, stored, transform, outputs, dtype):
    source = Pictures()
    expected = eval_arrays(source, config_lib.bind(transform))
    images = expected.pop("image")
    task = "cls" if outputs == ("pooled",) else "dense"
    features = jax.device_get(backbone.outputs(images, task, outputs))
    found = make(backbone, source, transform, tmp_path if stored else None, outputs)
    assert set(found) == set(expected) | set(outputs)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    for name in outputs:
        assert found[name].dtype == dtype and len(found[name]) == 21
        scale = np.abs(features[name]).max()
        tolerance = (1e-5 if dtype == np.float32 else 1e-3) * scale
        np.testing.assert_allclose(found[name], features[name], atol=tolerance)


def test_a_stored_cache_is_read_and_no_picture_is(backbone, tmp_path):
    first, source = make(backbone, Pictures(), kept=tmp_path), Pictures()
    again = make(backbone, source, kept=tmp_path, batch_size=16)
    assert source.read == []
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    meta = json.loads(shards(tmp_path)["meta.json"].read_text())
    assert meta == key(backbone, LABELLED, "cls", ("pooled",))
    assert meta["backbone"]["digest"] == backbone.digest


@pytest.mark.parametrize("in_memory", [True, False])
def test_another_draw_split_or_picture_reads_only_what_is_new(backbone, tmp_path, in_memory):
    kept, whole = Memory() if in_memory else tmp_path, make(backbone, Pictures())
    for rows, new in [
        ([3, 4, 5, 6, 20, 1, 0, 7, 8, 9], [0, 1, 3, 4, 5, 6, 7, 8, 9, 20]),
        ([4, 2, 0], [2]),  # another draw, in an order of its own
        (range(21), [*range(10, 20)]),  # all labels
        ([17, 17, 3], []),  # pictures to look at
    ]:
        source = Pictures()
        found = make(backbone, Subset(source, rows), kept=kept)
        assert sorted(source.read) == new
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value[list(rows)], atol=1e-6)
    # Of a set that grew, whose labels are others too: the label is part of an example.
    source = Pictures(23)
    source.labels[5] = 1
    assert make(backbone, source, kept=kept)["label"].tolist() == source.labels.tolist()
    assert sorted(source.read) == [5, 21, 22]


def test_pictures_that_say_nothing_of_their_content_are_known_by_it(backbone, tmp_path):
    # A user's own source without a fingerprint: its pictures were overwritten under their names.
    for seed in (0, 1):
        kept = make(backbone, Unknown(seed=seed), kept=tmp_path)
        np.testing.assert_array_equal(kept["pooled"], make(backbone, Unknown(seed=seed))["pooled"])
    source = Subset(Unknown(seed=1), range(8))
    assert np.array_equal(make(backbone, source, kept=tmp_path)["pooled"], kept["pooled"][:8])
    assert (
        len(shards(tmp_path)) == 1 + 2 * 3 * 3
    )  # meta.json, and two times three shards of three files


def test_a_memory_forgets_the_oldest_above_its_bytes(backbone):
    memory, source = Memory(most_bytes=1), Pictures()
    for size in (16, 24, 24, 16):
        make(backbone, source, LABELLED | {"size": size}, kept=memory)
    assert len(source.read) == 3 * 21  # the second of 24 pixels was there


def test_one_shard_is_a_memory_map(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_lib, "SHARD", 4096)
    make(backbone, Pictures(), kept=tmp_path)
    found = make(backbone, Pictures(), kept=tmp_path)
    assert isinstance(found["pooled"], np.memmap)


def test_a_killed_run_goes_on_at_the_first_missing_shard(backbone, tmp_path):
    whole = make(backbone, Pictures())
    with pytest.raises(UserError, match="noise/17: no picture; repair or remove it"):
        make(backbone, Pictures(corrupt=17), kept=tmp_path)
    assert not any(name.endswith(".tmp") for name in shards(tmp_path))
    assert len({shard_of(tmp_path, Pictures().examples()[i]) for i in range(16)}) == 2
    source = Pictures()
    found = make(backbone, source, kept=tmp_path)
    assert sorted(source.read) == list(range(16, 21))
    for name, value in whole.items():
        np.testing.assert_array_equal(found[name], value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def reshape(path):
    np.save(path, np.zeros((3, 2), np.float32))


def no_array(path):
    path.write_bytes(b"not an array")


@pytest.mark.parametrize("damage", [cut, flip, reshape, no_array, pathlib.Path.unlink])
def test_a_damaged_shard_is_computed_anew_with_one_line(backbone, tmp_path, caplog, damage):
    whole = make(backbone, Pictures(), kept=tmp_path)
    shard = shard_of(tmp_path, Pictures().examples()[8])
    damage(shards(tmp_path)[f"pooled-{shard}.npy"])
    source = Pictures()
    with caplog.at_level(logging.WARNING):
        found = make(backbone, source, kept=tmp_path)
    assert len(caplog.records) == 1 and f"{shard}.json: damaged" in caplog.text
    assert sorted(source.read) == list(range(8, 16))
    np.testing.assert_array_equal(found["pooled"], whole["pooled"])
    assert make(backbone, source, kept=tmp_path) and len(source.read) == 8


def test_what_the_values_depend_on_is_in_the_name(backbone):
    digests = set()
    variables = jax.tree.map(np.copy, backbone.variables)
    jax.tree.leaves(variables)[0].flat[0] += 1e-3
    pictures = dataclasses.replace(backbone.preprocess, mean=(0.1, 0.2, 0.3))
    for one, transform, outputs in [
        (backbone, LABELLED, ("pooled",)),
        (dataclasses.replace(backbone, variables=variables), LABELLED, ("pooled",)),
        (dataclasses.replace(backbone, preprocess=pictures), LABELLED, ("pooled",)),
        (backbone, LABELLED | {"size": 24}, ("pooled",)),
        (backbone, LABELLED, ("layers",)),
        (backbone, LABELLED, ("pooled", "layer4")),
    ]:
        digests.add(config_lib.digest(key(one, transform, "cls", outputs)))
    assert len(digests) == 6
    renamed = dataclasses.replace(backbone, name="other")
    assert config_lib.digest(key(renamed, dict(LABELLED), "cls", ("pooled",))) in digests


def test_what_names_a_cache_of_all_layers_is_as_it_always_was(backbone):
    made = key(backbone, LABELLED, "cls", ("layers",))
    assert set(made) == {"backbone", "transform", "branch", "outputs", "dtype", "formats"}
    assert made["outputs"] == ["layers"] and made["dtype"] == "float32" and made["branch"] == "cls"
    assert made["formats"]["readout"] == 1 and made["formats"]["cache"] == 2


def test_readouts_of_named_branches_are_kept_and_read_again(tmp_path):
    model = Model.random({"name": "generalist", "branch": {"name": "embedded_tiny"}}, 0)
    names, source = ("pooled:dense/cls+cls", "layers:dense@layer4+layer3"), Pictures()
    made = make(model, source, kept=tmp_path, outputs=names, task="classification")
    again = make(model, source, kept=tmp_path, outputs=names, task="classification")
    assert sorted(source.read) == list(range(len(source)))  # each once
    images = eval_arrays(Pictures(), config_lib.bind(LABELLED))["image"]
    for name in names:
        expected = model.outputs(images, None, (name,))[name]
        assert made[name].dtype == np.float32
        np.testing.assert_allclose(made[name], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(again[name], made[name])


def test_a_branch_that_is_not_there_is_refused_before_a_sample_is_read(backbone, tmp_path):
    source = Pictures()
    with pytest.raises(UserError, match="'layers:sky': no branch 'sky'; the network has one alone"):
        make(backbone, source, kept=tmp_path, outputs=("layers:sky",), task="classification")
    assert not source.read and not list(tmp_path.iterdir())


def test_features_of_pictures_that_were_replaced_are_not_served(backbone, tmp_path):
    for shift in (0, 150):
        for i in range(6):
            path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((24, 24, 3), 9 * i + shift, np.uint8)).save(path)
        source = ImageFolder(tmp_path / "set")
        kept = make(backbone, source, kept=tmp_path / "kept")
        np.testing.assert_allclose(kept["pooled"], make(backbone, source)["pooled"], atol=1e-5)
    before = fingerprints.of_examples(source)
    Image.fromarray(np.full((24, 24, 3), 99, np.uint8)).save(tmp_path / "set" / "a" / "4.png")
    after = fingerprints.of_examples(ImageFolder(tmp_path / "set"))
    assert [a != b for a, b in zip(after, before, strict=True)] == [
        k == "a/4.png" for k in source.keys
    ]


def test_a_raised_format_of_the_transform_is_another_cache(backbone, monkeypatch):
    first = key(backbone, LABELLED, "cls", ("pooled",))
    monkeypatch.setattr(transforms.classification, "format", transforms.classification.format + 1)
    assert key(backbone, LABELLED, "cls", ("pooled",)) != first


def test_progress_is_logged(backbone, monkeypatch, caplog):
    monkeypatch.setattr(cache_lib, "REPORT_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        make(backbone, Pictures())
    assert "noise: 21 of 21 pictures" in caplog.text


def test_mistakes_are_named(backbone):
    with pytest.raises(UserError, match="noise: no samples"):
        make(backbone, Pictures(0))
    broken = jax.tree.map(lambda a: np.full_like(a, np.nan), backbone.variables)
    with pytest.raises(UserError, match="random-0/pooled: not finite"):
        make(dataclasses.replace(backbone, variables=broken), Pictures())


def test_eight_devices_give_the_features_keys_and_subsets_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # shards as they are
    runpy.run_path(str(RUN))["main"](str(tmp_path / "one"), str(tmp_path / "one.npz"))
    there = answer_of(RUN, tmp_path / "eight", tmp_path / "eight.npz")
    here = json.loads(capsys.readouterr().out)
    assert (here["devices"], there["devices"]) == (len(jax.devices()), 8)
    assert here["subset"] == there["subset"]
    names, others = (sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("one", "eight"))
    assert names == others and len(names) == 3
    alone, spread = np.load(tmp_path / "one.npz"), np.load(tmp_path / "eight.npz")
    for name in ("pooled", "shipped"):
        np.testing.assert_allclose(spread[name], alone[name], rtol=0, atol=1e-5)
    for name in LAYERS:
        # float16 has 11 bits: a last one may round the other way.
        np.testing.assert_allclose(spread[name], alone[name], rtol=2**-10, atol=1e-5)
