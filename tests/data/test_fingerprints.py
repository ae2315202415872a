"""A fingerprint changes when a source's samples do, and with nothing else."""

import functools
import os
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from intern_jax.core.config import bind, format_of, formatted
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.embedded import scenes, tables
from intern_jax.data.make import dense as dense_transforms
from intern_jax.data.make import pairs
from intern_jax.data.make import views as transforms
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.array_record import ArrayRecordSource, write_manifest
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset


class Numbers:
    """A user's source, without a fingerprint of its own."""

    name, family, classes, labels = "numbers", "classification", ("a", "b"), None

    def __init__(self, keys="abcd", labels=None):
        self.keys = list(keys)
        self.labels = None if labels is None else np.asarray(labels, np.int32)

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": 0, "key": self.keys[index]}


class Others(Numbers):
    pass


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        (tmp_path / "set" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path)
    return tmp_path / "set"


def touch(path):
    stamp = os.stat(path).st_mtime_ns + 1000
    os.utime(path, ns=(stamp, stamp))


def test_a_folder_by_its_files_wherever_it_lies(folder, tmp_path):
    first = fingerprint(ImageFolder(folder))
    assert fingerprint(ImageFolder(folder)) == first and len(first) == 16
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "set")
    assert fingerprint(ImageFolder(moved)) == first
    found = {first, fingerprint(ImageFolder(folder, classes=("a", "b", "c")))}
    found.add(fingerprint(ImageFolder(folder, name="other")))
    touch(folder / "a" / "2.png")
    found.add(fingerprint(ImageFolder(folder)))
    (folder / "b" / "3.png").rename(folder / "b" / "5.png")
    found.add(fingerprint(ImageFolder(folder)))
    assert len(found) == 5


def write_records(path, values):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for value in values:
        writer.write(bytes([value]))
    writer.close()


def test_records_by_manifest_digests_or_else_by_their_files(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    write_records(folder / "0.array_record", (1, 2))
    write_records(folder / "1.array_record", (3, 4))
    index = tmp_path / "index.json"
    index.write_text('{"labels": "labels.npy"}')
    np.save(tmp_path / "labels.npy", np.arange(4))
    opened = functools.partial(ArrayRecordSource, folder, decode=bytes, index=index)
    first = fingerprint(opened())
    assert fingerprint(opened()) == first
    touch(folder / "1.array_record")
    assert len({first, fingerprint(opened()), fingerprint(opened(decode=bytearray))}) == 3
    write_manifest(folder, digests=True)
    first = fingerprint(opened())
    touch(folder / "1.array_record")
    assert fingerprint(opened()) == first
    touch(tmp_path / "labels.npy")
    assert fingerprint(opened()) != first
    second = fingerprint(opened())
    write_records(folder / "1.array_record", (3, 5))
    write_manifest(folder, digests=True)
    assert fingerprint(opened()) != second


def test_wrapped_sources():
    source = Numbers()
    first = fingerprint(source)
    assert fingerprint(Replacing(source)) == first == fingerprint(Numbers())
    parts = [Subset(source, [0, 1]), Subset(source, [1, 0]), Subset(Numbers("wxyz"), [0, 1])]
    assert len({first, *map(fingerprint, parts)}) == 4
    assert fingerprint(Subset(source, [0, 1])) == fingerprint(parts[0])


def test_a_source_without_the_method_by_class_keys_and_labels():
    assert isinstance(Numbers(), Source)
    sources = [Numbers(), Others(), Numbers("abce"), Numbers("abc"), Numbers(labels=[0, 1, 0, 1])]
    renamed = Numbers()
    renamed.name = "other"
    assert len(set(map(fingerprint, [*sources, renamed]))) == 6
    columns = Numbers()
    columns.keys = np.asarray(columns.keys)
    assert fingerprint(columns) == fingerprint(Numbers())


def test_embedded_sources_differ_and_stay():
    opened = [
        tables.emoji_groups,
        tables.clipart_pool,
        tables.emoji_pairs,
        tables.clipart_pairs,
        tables.room_pool,
        functools.partial(tables.rooms_seg, "train"),
        functools.partial(tables.rooms_seg, "test"),
        functools.partial(tables.fashion, "test"),
        scenes.scene_pairs,
        functools.partial(scenes.scene_pairs, seed=1),
        functools.partial(scenes.scene_pairs, size=32),
        scenes.sprite_scenes,
    ]
    found = [fingerprint(make()) for make in opened]
    assert len(set(found)) == len(opened)
    assert found == [fingerprint(make()) for make in opened]


def test_a_format_is_that_of_the_function_inside():
    @formatted(3)
    def view(_sample, _rng, size=2):
        return {"size": size}

    assert format_of(view) == 3 and format_of(functools.partial(view, size=4)) == 3
    assert format_of(lambda sample: sample) == 1
    assert format_of(bind({"fn": "intern_jax.data.make.dense:dense", "size": 8})) == 1
    views = (transforms.classification, transforms.eval_classification, transforms.centre_crop)
    marked = (*views, dense_transforms.dense, pairs.PairViews, dense_transforms.crop)
    assert all("format" in vars(function) for function in marked)
