"""Every kind is recognised from a path; what is none, or two of them, is one line."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import box_layouts as layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intern_jax.benchmark.rows.row import Row
from intern_jax.core.config import UserError
from intern_jax.data.open import opening
from intern_jax.data.open.opening import KINDS, open_data, open_split, recognise
from intern_jax.data.schema.sample import check
from intern_jax.data.schema.source import Source


def read_record(data):
    """A sample from a record."""
    return {"image": np.full((4, 4, 3), int(data), np.uint8), "label": 0}


@pytest.fixture
def places(tmp_path, png, write_tar, prepared):
    """{kind: a path whose data is of that kind}, with four pictures each."""
    found = {kind: tmp_path / kind for kind in KINDS}
    for path in found.values():
        path.mkdir()
    for i in range(4):
        for kind, inner in (("folders", f"class_{i % 2}"), ("captions", "."), ("coco", "images")):
            (found[kind] / inner).mkdir(exist_ok=True)
            (found[kind] / inner / f"{i}.png").write_bytes(png(i))
        (found["captions"] / f"{i}.txt").write_text(f"caption {i}")
    for kind in layouts.WRITERS.keys() - {"coco"}:
        layouts.WRITERS[kind](found[kind])
    members = [
        (f"{i}.{end}", png(i) if end == "png" else b"a") for i in range(4) for end in ("png", "txt")
    ]
    write_tar(found["webdataset"] / "a-000.tar", members)
    table = pa.table({"image": [png(i) for i in range(4)], "text": list("abcd")})
    pq.write_table(table, found["parquet"] / "a-000.parquet", row_group_size=2)
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2]} for i in range(4)]
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(4)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (found["coco"] / "instances.json").write_text(json.dumps(content))
    _write_records(found["array_record"] / "a.array_record", [b"%d" % i for i in range(4)])
    shutil.copytree(prepared, found["tfds"], dirs_exist_ok=True)
    found["tfds"] = found["tfds"] / "opener_shapes" / "1.0.0"
    return found


def _write_records(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which TFDS has prepared a small data set."""
    import tensorflow_datasets as tfds
    from PIL import Image

    folder = tmp_path_factory.mktemp("tfds")

    class OpenerShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder  # else the builder looks for metadata files beside this test

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(6, 8, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["round", "square"]),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                out = io.BytesIO()
                Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(out, "PNG")
                yield i, {"image": io.BytesIO(out.getvalue()), "label": i % 2}

    OpenerShapes(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


SETTINGS = {"array_record": {"decode": read_record}}


def test_every_kind_is_recognised_and_opened(places):
    for kind, path in places.items():
        assert recognise(path) == kind
        source = open_data(path, **SETTINGS.get(kind, {}))
        assert isinstance(source, Source) and len(source) == 4, kind
        samples = [check(source[i], kind, len(source.classes) or None) for i in range(4)]
        assert [sample["key"] for sample in samples] == list(source.keys)
        order = [3, 1, 0, 2] * 20
        with ThreadPoolExecutor(8) as pool:
            for i, sample in zip(order, pool.map(source.__getitem__, order), strict=True):
                np.testing.assert_array_equal(sample["image"], samples[i]["image"])
        again = open_data(str(path), kind, **SETTINGS.get(kind, {}))
        assert again.fingerprint() == source.fingerprint() and again.keys == source.keys


def test_a_changed_file_changes_the_fingerprint(places):
    changed = {"folders": "class_0/0.png", "captions": "1.txt", "coco": "images/2.png"}
    changed |= {
        "webdataset": "a-000.tar",
        "parquet": "a-000.parquet",
        "array_record": "a.array_record",
        "voc": "Annotations/2.xml",
        "yolo": "labels/train/1.txt",
        "openimages": "class-descriptions-boxable.csv",
        "wider_face": "WIDER_train/images/0--Parade/3.jpg",
    }
    for kind, file in changed.items():
        settings = SETTINGS.get(kind, {})
        before = open_data(places[kind], **settings).fingerprint()
        os.utime(places[kind] / file, ns=(1, 1))
        assert open_data(places[kind], **settings).fingerprint() != before, kind


def test_files_and_patterns(places, tmp_path):
    for kind, pattern in (("webdataset", "*.tar"), ("parquet", "a-{000..000}.parquet")):
        assert recognise(places[kind] / pattern) == kind
        assert recognise(next(places[kind].glob("a-000.*"))) == kind
    assert recognise(places["coco"] / "instances.json") == "coco"
    assert recognise(places["yolo"] / "data.yaml") == "yolo"
    assert recognise(places["openimages"] / "validation-annotations-bbox.csv") == "openimages"
    assert recognise(places["array_record"] / "a.array_record") == "array_record"
    places["webdataset"].joinpath("a-000.tar").rename(tmp_path / "no_suffix")
    assert recognise(tmp_path / "no_suffix") == "webdataset"
    inner = tmp_path / "hub"
    inner.mkdir()
    places["parquet"].rename(inner / "data")
    assert recognise(inner) == "parquet" and len(open_data(inner)) == 4


def test_tars_with_lists_of_addresses_beside_them(places):
    """As img2dataset writes them."""
    table = pa.table({"url": ["http://a"], "caption": ["a"], "status": ["success"]})
    pq.write_table(table, places["webdataset"] / "a-000.parquet")
    (places["webdataset"] / "a-000_stats.json").write_text('{"images": 4}')
    assert recognise(places["webdataset"]) == "webdataset"
    assert len(open_data(places["webdataset"])) == len(open_data(places["webdataset"])) == 4


def test_tfds_by_name(places):
    folder = places["tfds"].parents[1]
    source = open_data(places["tfds"], name="mine")
    assert source.labels.tolist() == [source[i]["label"] for i in range(4)]
    assert source.classes == ("round", "square") and source.name == "mine"
    with pytest.raises(UserError, match="split: no 'test'"):
        open_data(places["tfds"], split="test")
    with pytest.raises(UserError, match="cifar10: not prepared"):
        open_data("tfds:cifar10", data_dir=folder)


def test_class_folders_with_other_files_beside_them(places):
    folder = places["folders"]
    (folder / "notes.csv").write_text("epoch,loss\n1,2\n")
    (folder / "package.json").write_text('{"name": "x"}')
    (folder / "cover.png").write_bytes(b"")
    (folder / "class_0" / "readme.txt").write_text("of no picture")
    assert recognise(folder) == "folders"
    (folder / "class_0" / "0.txt").write_text("1 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match=r"may be captions or folders .*; say which with kind="):
        open_data(folder)
    assert open_data(folder, "folders").classes == ("class_0", "class_1")


def test_a_large_folder_is_not_listed_whole(places, monkeypatch):
    looked = []
    real = os.scandir

    class Counting:
        def __init__(self, path):
            self.inner = real(path)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def __iter__(self):
            return self

        def __next__(self):
            looked.append(1)
            return next(self.inner)

    for i in range(3000):
        (places["captions"] / f"x{i}.png").write_bytes(b"")
    (places["captions"] / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n')
    monkeypatch.setattr(opening.os, "scandir", Counting)
    assert recognise(places["captions"]) == "captions"
    assert len(looked) < 1000


def test_mistakes_are_one_line(places, tmp_path):
    def fails(said, *arguments, **settings):
        with pytest.raises(UserError, match=said) as error:
            open_data(*arguments, **settings)
        assert "\n" not in str(error.value)

    fails("gone: no such file or folder; accepted: class folders", tmp_path / "gone")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails("not recognised; found: files: none; folders: 0; accepted: .*kind=", empty)
    (empty / "a.png").write_bytes(b"")
    (empty / "b.bin").write_bytes(b"")
    fails(r"found: files: 1 \.png, 1 \.bin; folders: 0", empty)
    fails("found: a file", empty / "b.bin")
    fails("found: 0 files", empty / "*.tar")
    fails("kind: no 'parket'; .*parquet", places["parquet"], "parket")
    fails(
        "parquet has no setting 'split'; there are root, classes, name",
        places["parquet"],
        split="a",
    )
    fails(
        "array_record has no setting 'spilt'", places["array_record"], decode=read_record, spilt=1
    )
    fails("give decode='package.module:function'", places["array_record"])
    (places["parquet"] / "b.tar").write_bytes(b"")
    fails(r"may be parquet or webdataset \(files: .*\); say which with kind=", places["parquet"])
    (empty / "a.tar.gz").write_bytes(b"\x1f\x8b")
    fails("has compressed tars; uncompress each once", empty)
    fails("compressed .gzip.; uncompress it once", empty / "a.tar.gz")
    fails("names 1000000 files; 100,000 at most", f"{empty}/a-{{0..999999}}.tar")


def test_a_pool_is_opened_by_its_own_function(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "POOL", f"{__name__}:open_pool")
    monkeypatch.setattr(opening, "resolve", lambda name: {opening.POOL: lambda path: path}[name])
    (tmp_path / "pool.json").write_text("{}")
    assert recognise(tmp_path) == "array_record" and open_data(tmp_path) == tmp_path


def test_a_benchmark_row_of_one_s_own(tmp_path, png):
    for split, names in (("train", ("cat", "dog", "owl")), ("test", ("dog", "owl"))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(png(0))
    source = {"fn": "intern_jax.data.open.opening:open_split"}
    source |= {split: str(tmp_path / split) for split in ("train", "test")}
    row = Row("mine", "classification", source, "top1", 32)
    assert row.load("train").labels.tolist() == [0, 1, 2]
    assert row.load("test").labels.tolist() == [1, 2]
    assert row.steps() == f"put it into {tmp_path / 'train'} and {tmp_path / 'test'}"
    with pytest.raises(UserError, match="known: train, test"):
        open_split("val", tmp_path / "train", tmp_path / "test")
    (tmp_path / "test" / "emu").mkdir()
    with pytest.raises(UserError, match="none of the 3 classes"):
        row.load("test")


def test_links_are_not_followed_out_of_a_tar(tmp_path, png, write_tar):
    link = tarfile.TarInfo("a.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = write_tar(tmp_path / "a.tar", [("a.png", png(0)), (link, None)])
    assert "texts" not in open_data(path)[0]


def test_opening_loads_no_heavy_package():
    code = (
        "import sys, intern_jax.data.open.opening;"
        " sys.exit(any(m in sys.modules for m in ('jax', 'tensorflow', 'pyarrow')))"
    )
    root = pathlib.Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
