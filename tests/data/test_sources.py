"""Folders, ArrayRecord files, TFDS data sets against what was written; mistakes in one line."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.batches import mixture
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.read import decoding
from intern_jax.data.schema.sample import check
from intern_jax.data.schema.source import Source, is_source, known_labels
from intern_jax.data.sources.array_record import ArrayRecordSource, Keys
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset
from intern_jax.data.sources.tfds import TfdsSource


def encode(array, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def pixels(seed, channels=3, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i, (name, kind) in enumerate([("tea_pot", "PNG"), ("cup", "PNG"), ("cup", "WEBP")]):
        (tmp_path / name).mkdir(exist_ok=True)
        data = encode(pixels(i, 4), kind, lossless=True)
        (tmp_path / name / f"{i}.{kind.lower()}").write_bytes(data)
    (tmp_path / "cup" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_image_folder(folder):
    source = ImageFolder(folder)
    assert isinstance(source, Source)
    assert source.classes == ("cup", "tea_pot") and source.family == "classification"
    assert source.keys == ["cup/1.png", "cup/2.webp", "tea_pot/0.png"]
    assert source.labels.tolist() == [0, 0, 1] and source.labels.dtype == np.int32
    sample = check(source[2], "folder", 2)
    assert sample["texts"] == ["tea pot"] and sample["label"] == 1
    np.testing.assert_array_equal(sample["image"], pixels(0, 4))


def test_image_folder_with_given_classes(folder):
    source = ImageFolder(folder, classes=("vase", "tea_pot", "cup"))
    assert source.labels.tolist() == [2, 2, 1]
    with pytest.raises(UserError, match="tea_pot: folder is none of the 2 classes"):
        ImageFolder(folder, classes=("vase", "cup"))


def test_image_folder_mistakes(tmp_path):
    def fails(path, said):
        with pytest.raises(UserError) as error:
            ImageFolder(path)
        assert said in str(error.value) and str(path) in str(error.value)
        assert "\n" not in str(error.value)

    fails(tmp_path / "nowhere", "no such folder")
    flat = tmp_path / "flat"
    flat.mkdir()
    fails(flat, "no class folder has pictures (JPEG, PNG, ")
    (flat / "a.png").write_bytes(encode(pixels(0)))
    fails(flat, "into a folder for each class")
    (flat / "one").mkdir()
    (flat / "one" / "a.png").write_bytes(encode(pixels(0)))
    fails(flat, "only the class 'one'")
    (flat / "two").mkdir()
    fails(flat, "class without pictures")


def test_subset(folder):
    source = Subset(ImageFolder(folder), [2, 0])
    assert isinstance(source, Source) and len(source) == 2
    assert source.keys == ["tea_pot/0.png", "cup/1.png"] and source.labels.tolist() == [1, 0]
    assert source[0]["key"] == "tea_pot/0.png"
    with pytest.raises(UserError, match=r"subset: index 3 is outside 0\.\.2"):
        Subset(ImageFolder(folder), [3])


def test_decode_modes():
    rgb, grey = pixels(0), pixels(1)[..., 0]
    np.testing.assert_array_equal(decoding.decode(encode(rgb), "x"), rgb)
    np.testing.assert_array_equal(decoding.decode(encode(grey), "x")[..., 1], grey)
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decoding.decode(encode(deep), "x")[..., 2], grey)
    palette = io.BytesIO()
    Image.fromarray(rgb).quantize(4).save(palette, "PNG", transparency=0)
    assert decoding.decode(palette.getvalue(), "x").shape == (6, 8, 4)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(turned, "JPEG", exif=exif)
    assert decoding.decode(turned.getvalue(), "x").shape == (8, 6, 3)


def read_record(data):
    content = json.loads(data)
    image = np.full((4, 4, 3), content["value"], np.uint8)
    return {"image": image, "label": content["label"]}


@pytest.fixture
def records(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    path = tmp_path / "part.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for i in range(5):
        writer.write(json.dumps({"value": 10 * i, "label": i % 2}).encode())
    writer.close()
    return path


def test_array_record(records, tmp_path):
    source = ArrayRecordSource(records, read_record, classes=("even", "odd"))
    assert isinstance(source, Source) and len(source) == 5 and source.labels is None
    sample = check(source[3], "records", 2)
    assert sample["key"] == "part/3" and sample["label"] == 1 and sample["image"][0, 0, 0] == 30
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"rows": [4, 1], "keys": ["d", "a"], "labels": [0, 1]}))
    picked = ArrayRecordSource(records, read_record, classes=("even", "odd"), index=index)
    assert picked[0]["image"][0, 0, 0] == 40 and picked.keys == ["d", "a"]
    assert picked.labels.tolist() == [0, 1] and picked[1]["key"] == "a"


def test_array_record_mistakes(records, tmp_path):
    with pytest.raises(UserError, match="no such ArrayRecord file"):
        ArrayRecordSource(tmp_path / "gone", read_record)
    with pytest.raises(UserError, match="no family 'sound'; known"):
        ArrayRecordSource(records, read_record, family="sound")
    index = tmp_path / "index.json"
    for content, said in (
        ({"rows": [5]}, r"rows: a row is outside 0\.\.4"),
        ({"labels": [0]}, "1 entries for 5 rows"),
        ({"labels": [0, 1, 2, 0, 1]}, r"label: 2 at index 2 is outside 0\.\.1"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=said):
            ArrayRecordSource(records, read_record, classes=("a", "b"), index=index)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A small data set with class labels, boxes and masks, prepared without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Shapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        # Else the builder looks for metadata files beside this test.
        pkg_dir_path = tmp_path_factory.mktemp("package")

        def _info(self):
            names = tfds.features.ClassLabel(names=["round", "square"])
            features = {
                "image": tfds.features.Image(shape=(6, 8, 3), encoding_format="png"),
                "label": names,
                "segmentation_mask": tfds.features.Image(shape=(6, 8, 1), encoding_format="png"),
                "objects": tfds.features.Sequence(
                    {"bbox": tfds.features.BBoxFeature(), "label": names}
                ),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                yield (
                    i,
                    {
                        "image": io.BytesIO(encode(pixels(i))),
                        "label": i % 2,
                        "segmentation_mask": io.BytesIO(encode(np.full((6, 8), i, np.uint8))),
                        "objects": [
                            {"bbox": tfds.features.BBox(0.0, 0.25, 0.5, 1.0), "label": i % 2}
                        ],
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    Shapes(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def test_tfds_source(tfds_dir):
    source = TfdsSource("shapes", "train", tfds_dir)
    assert isinstance(source, Source) and len(source) == 4
    assert source.classes == ("round", "square")
    by_value = {int(sample["mask"][0, 0]): sample for sample in map(source.__getitem__, range(4))}
    assert sorted(by_value) == [0, 1, 2, 3]
    for i, sample in by_value.items():
        check(sample, "shapes")
        np.testing.assert_array_equal(sample["image"], pixels(i))
        assert sample["label"] == i % 2
        np.testing.assert_array_equal(sample["boxes"], [[2, 0, 8, 3]])
        assert sample["box_labels"].tolist() == [i % 2]
    assert source.labels.tolist() == [source[i]["label"] for i in range(4)]
    tail = TfdsSource("shapes", "train[50%:]", tfds_dir, fields={"image": "image"})
    assert source.fingerprint() == TfdsSource("shapes", "train", tfds_dir).fingerprint()
    assert source.fingerprint() != tail.fingerprint()
    assert tail.keys == source.keys[2:] and set(tail[0]) == {"image", "key"}
    np.testing.assert_array_equal(tail[1]["image"], source[3]["image"])


def test_labels_of_tfds_are_read_once_for_all_processes_and_only_where_they_are_used(tfds_dir):
    class Unreadable:
        def __len__(self):
            return 4

        def __iter__(self):
            raise AssertionError("the records were read")

    def opened():
        source = TfdsSource("shapes", "train", tfds_dir)
        source._data = Unreadable()
        return source

    Replacing(Subset(opened(), [1, 0]))
    assert known_labels(opened()) is known_labels(Subset(opened(), [1])) is None
    for kept in pathlib.Path(tfds_dir).rglob("labels-*.npy"):
        kept.unlink()
    expected = TfdsSource("shapes", "train", tfds_dir).labels
    np.testing.assert_array_equal(opened().labels, expected)
    np.testing.assert_array_equal(Subset(opened(), [1, 0]).labels, expected[[1, 0]])
    # What a kill or a bad disk left of it is made again.
    (kept,) = pathlib.Path(tfds_dir).rglob("labels-*.npy")
    kept.write_bytes(kept.read_bytes()[:-3])
    np.testing.assert_array_equal(TfdsSource("shapes", "train", tfds_dir).labels, expected)


class Millions:
    """A source of many records, which tells what is asked of it."""

    name, family, classes = "millions", "classification", ("a", "b")

    def __init__(self):
        self.made = []
        self.keys = Keys(14_000_000, lambda i: self.made.append(i) or str(i))

    @property
    def labels(self):
        raise AssertionError("every record was read")

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        return {"image": np.zeros((4, 4, 3), np.uint8), "label": 1, "key": self.keys[index]}


def millions():
    return Millions()


def test_opening_many_records_asks_for_none_of_their_labels_and_few_of_their_keys():
    opened = mixture.group_sources({"sources": [{"fn": f"{__name__}:millions"}]})
    views = {"fn": "intern_jax.data.make.views:classification", "size": 8, "train": True}
    group = mixture.OpenGroup({"batch_size": 2, "transform": views}, opened)
    assert len(group.sources[0]) == 14_000_000 and len(opened[0].made) < 10
    assert is_source(opened[0]) and not is_source([1, 2])

    class Wrapped:
        def __init__(self, source):
            self.source = source

        def __getattr__(self, name):
            return getattr(self.source, name)

    assert not is_source(Wrapped(opened[0])), "it has no [index]"


def test_the_fingerprint_of_tfds_makes_no_key(tfds_dir):
    def opened(split):
        source = TfdsSource("shapes", split, tfds_dir)
        source.keys = None
        return source.fingerprint()

    assert opened("train") == opened("train")
    assert len({opened("train"), opened("train[:2]"), opened("train[2:]")}) == 3


def test_tfds_mistakes(tfds_dir, tmp_path):
    with pytest.raises(UserError, match="download_and_prepare") as error:
        TfdsSource("cifar10", "train", tmp_path)
    assert "\n" not in str(error.value) and "not prepared" in str(error.value)
    with pytest.raises(UserError, match="no prepared TFDS data set of that name"):
        TfdsSource("no_such_set", "train", tmp_path)
    with pytest.raises(UserError, match="split: no 'test'; known: train"):
        TfdsSource("shapes", "test", tfds_dir)
    with pytest.raises(UserError, match="mask: no feature 'masks'; there are"):
        TfdsSource("shapes", "train", tfds_dir, fields={"image": "image", "mask": "masks"})
    with pytest.raises(UserError, match="colour: unknown field"):
        TfdsSource("shapes", "train", tfds_dir, fields={"colour": "image"})


def test_reading_data_needs_no_jax():
    code = (
        "import sys, intern_jax.data.sources.folder, intern_jax.data.make.views, intern_jax.data.batches.mixture,"
        " intern_jax.data.make.text; sys.exit(any(m in sys.modules for m in ('jax', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
