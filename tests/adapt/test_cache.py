"""Cached features are the backbone's own, survive a kill and damage, and do not depend on the layout of devices."""

import dataclasses
import json
import logging
import os
import pathlib
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from intern_jax.adapt import cache as cache_lib
from intern_jax.adapt.cache import cached, key
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.make import views as transforms
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.models.backbone import LAYERS
from intern_jax.weights.model import Model

RUN = pathlib.Path(__file__).parent / "cache_run.py"
LABELLED = {"fn": "intern_jax.data.make.views:classification", "size": 16, "train": False}
DENSE = {"fn": "intern_jax.data.make.dense:dense", "size": 32, "train": False}


class Pictures:
    """Noise with labels and depth; counts what is read."""

    name, family, classes = "noise", "classification", ("a", "b", "c")

    def __init__(self, count=21, corrupt=None):
        self.keys = [f"{i:03d}" for i in range(count)]
        self.labels = np.arange(count, dtype=np.int32) % 3
        self.corrupt, self.read = corrupt, []

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        self.read.append(index)
        if index == self.corrupt:
            raise CorruptSample(f"noise/{index}", "no picture")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        depth = rng.uniform(1, 5, (20, 24)).astype(np.float32)
        return {
            "image": image,
            "label": int(self.labels[index]),
            "depth": depth,
            "key": self.keys[index],
        }


@pytest.fixture(scope="module")
def backbone():
    return Model.random({"name": "embedded_tiny"}, 0)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cache_lib, "SHARD", 8)


def make(backbone, source, transform=LABELLED, folder=None, outputs=("pooled",), **changes):
    settings = {"branch": "cls" if outputs == ("pooled",) else "dense", "batch_size": 4}
    mesh = mesh_lib.make_mesh(data=1)
    return cached(
        backbone, source, transform, outputs=outputs, mesh=mesh, folder=folder, **settings | changes
    )


def shards(folder):
    """The one cache's files by name."""
    (inner,) = folder.iterdir()
    return {path.name: path for path in inner.iterdir()}


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
    first, source = make(backbone, Pictures(), folder=tmp_path), Pictures()
    again = make(backbone, source, folder=tmp_path, batch_size=16)
    assert source.read == []
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    meta = json.loads(shards(tmp_path)["meta.json"].read_text())
    assert meta == key(backbone, source, LABELLED, "cls", ("pooled",))
    assert meta["backbone"]["name"] == "random-0" and meta["source"]["count"] == 21


def test_one_shard_is_a_memory_map(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_lib, "SHARD", 4096)
    make(backbone, Pictures(), folder=tmp_path)
    found = make(backbone, Pictures(), folder=tmp_path)
    assert isinstance(found["pooled"], np.memmap)


def test_a_killed_run_goes_on_at_the_first_missing_shard(backbone, tmp_path):
    whole = make(backbone, Pictures())
    with pytest.raises(UserError, match="noise/17: no picture; repair or remove it"):
        make(backbone, Pictures(corrupt=17), folder=tmp_path)
    assert not any(name.endswith(".tmp") for name in shards(tmp_path))
    assert {"00000.json", "00001.json"} <= set(shards(tmp_path))
    source = Pictures()
    found = make(backbone, source, folder=tmp_path)
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
    whole = make(backbone, Pictures(), folder=tmp_path)
    damage(shards(tmp_path)["pooled-00001.npy"])
    source = Pictures()
    with caplog.at_level(logging.WARNING):
        found = make(backbone, source, folder=tmp_path)
    assert len(caplog.records) == 1 and "00001.json: damaged" in caplog.text
    assert sorted(source.read) == list(range(8, 16))
    np.testing.assert_array_equal(found["pooled"], whole["pooled"])
    assert make(backbone, source, folder=tmp_path) and len(source.read) == 8


def test_what_the_values_depend_on_is_in_the_name(backbone):
    source = Pictures()
    digests = set()
    variables = jax.tree.map(np.copy, backbone.variables)
    jax.tree.leaves(variables)[0].flat[0] += 1e-3
    relabelled = Pictures()
    relabelled.labels = relabelled.labels[::-1]
    pictures = dataclasses.replace(backbone.preprocess, mean=(0.1, 0.2, 0.3))
    for one, of, transform, outputs in [
        (backbone, source, LABELLED, ("pooled",)),
        (dataclasses.replace(backbone, name="other"), source, LABELLED, ("pooled",)),
        (dataclasses.replace(backbone, variables=variables), source, LABELLED, ("pooled",)),
        (dataclasses.replace(backbone, preprocess=pictures), source, LABELLED, ("pooled",)),
        (backbone, Pictures(20), LABELLED, ("pooled",)),
        (backbone, relabelled, LABELLED, ("pooled",)),
        (backbone, source, LABELLED | {"size": 24}, ("pooled",)),
        (backbone, source, LABELLED, ("pooled", "layer4")),
    ]:
        digests.add(config_lib.digest(key(one, of, transform, "cls", outputs)))
    assert len(digests) == 8
    same = key(backbone, Pictures(), dict(LABELLED), "cls", ("pooled",))
    assert config_lib.digest(same) in digests


def test_features_of_pictures_that_were_replaced_are_not_served(backbone, tmp_path):
    for shift in (0, 150):
        for i in range(6):
            path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((24, 24, 3), 9 * i + shift, np.uint8)).save(path)
        source = ImageFolder(tmp_path / "set")
        kept = make(backbone, source, folder=tmp_path / "kept")
        np.testing.assert_allclose(kept["pooled"], make(backbone, source)["pooled"], atol=1e-5)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_raised_format_of_the_transform_is_another_cache(backbone, monkeypatch):
    first = key(backbone, Pictures(), LABELLED, "cls", ("pooled",))
    monkeypatch.setattr(transforms.classification, "format", 2)
    assert key(backbone, Pictures(), LABELLED, "cls", ("pooled",)) != first


def test_progress_is_logged(backbone, monkeypatch, caplog):
    monkeypatch.setattr(cache_lib, "REPORT_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        make(backbone, Pictures())
    assert "noise: 21 of 21 pictures" in caplog.text


def test_mistakes_are_named(backbone):
    with pytest.raises(UserError, match="noise: no samples"):
        make(backbone, Pictures(0))
    with pytest.raises(UserError, match=r"^branch: no 'boxes'"):
        make(backbone, Pictures(), branch="boxes")
    broken = jax.tree.map(lambda a: np.full_like(a, np.nan), backbone.variables)
    with pytest.raises(UserError, match="random-0/pooled: not finite"):
        make(dataclasses.replace(backbone, variables=broken), Pictures())


def test_eight_devices_give_the_features_keys_and_subsets_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # shards as they are
    runpy.run_path(str(RUN))["main"](str(tmp_path / "one"), str(tmp_path / "one.npz"))
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, str(RUN), str(tmp_path / "eight"), str(tmp_path / "eight.npz")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    here, there = json.loads(capsys.readouterr().out), json.loads(done.stdout)
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
