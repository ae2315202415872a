"""Each classification row read from tiny files of its true format, and from what TFDS prepares of it."""

import hashlib
import json
import os
import pickle
import shutil

import make
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data import gvb
from intern_jax.data.gvb.classification import examples as examples_lib
from intern_jax.data.gvb.classification import tfds_rows
from intern_jax.data.gvb.classification.readers import READERS, ROWS
from intern_jax.data.gvb.classification.retina import rescaled
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.subset import Subset

# Example: its first keys for training and testing.
FIRST_KEYS = {
    "cifar10": ("train_00000", "test_00000"),
    "cifar100": ("train_00000", "test_00000"),
    "food101": ("apple_pie/1000", "apple_pie/1100"),
    "pets": ("Abyssinian_1.jpg", "Abyssinian_101.jpg"),
    "flowers102": ("image_00001.jpg", "image_00033.jpg"),
    "sun397": ("/a/abbey/sun_atrain.jpg", "/a/abbey/sun_atest.jpg"),
    "cars": ("00001", "00001"),
    "dtd": ("banded/banded_0000.jpg", "banded/banded_0100.jpg"),
    "caltech101": ("accordion/image_0001.jpg", "accordion/image_0005.jpg"),
    "aircraft": ("0034309", "0034341"),
    "svhn": ("train_000000", "test_000000"),
    "eurosat": ("AnnualCrop_1.jpg", "AnnualCrop_14.jpg"),
    "resisc45": ("airplane_001.jpg", "airplane_004.jpg"),
    "retinopathy": ("10_right", "50_right"),
    "fer2013": ("Training_00000", "PrivateTest_00000"),
    "ucf101": (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01",
    ),
    "gtsrb": ("00000/00000_00000.ppm", "00000.ppm"),
    "pcam": ("train_0", "test_0"),
    "imagenet": ("n01440764_10026.JPEG", "ILSVRC2012_val_00000001.JPEG"),
    "kinetics700": ("-000_ab-XYZ_000000_000010", "-032_ab-XYZ_000032_000042"),
}
# Where the class is not seen in the picture's mean colour: the label of the first row is compared instead.
OTHER_LOOK = {"retinopathy", "fer2013"}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A root with every row in its authors' layout."""
    root = tmp_path_factory.mktemp("official")
    for maker in make.MAKERS.values():
        maker(root)
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A root with what TFDS prepares, where it does."""
    root = tmp_path_factory.mktemp("prepared")
    for maker in make.TFDS_MAKERS.values():
        maker(root)
    return root


@pytest.fixture
def copy(official, tmp_path):
    """A function that copies one row, to be damaged, and gives its root."""

    def copied(name):
        shutil.copytree(official / name, tmp_path / name)
        return tmp_path

    return copied


def load(name, split, root):
    return READERS[name].read(root, split)


def fails(name, root, *said, splits=("train", "test")):
    """Both splits of a row are opened; the first error has all of `said` in one line."""
    with pytest.raises(UserError) as error:
        for split in splits:
            load(name, split, root)
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value), str(error.value)


def test_there_are_twenty_rows_in_order():
    order = "cifar10 cifar100 food101 pets flowers102 sun397 cars dtd caltech101 aircraft svhn"
    order += " eurosat resisc45 retinopathy fer2013 ucf101 gtsrb pcam imagenet kinetics700"
    assert list(READERS) == order.split() == list(FIRST_KEYS) == list(make.MAKERS)
    assert all(reader.steps.strip() for reader in READERS.values())


@pytest.mark.parametrize("name", READERS)
def test_row(name, official):
    sources = {split: load(name, split, official) for split in ("train", "test")}
    for split, source in sources.items():
        assert isinstance(source, Source) and source.name == name
        assert source.keys == sorted(set(source.keys))
        assert source.keys[0] == FIRST_KEYS[name][split == "test"]
        assert source.labels.dtype == np.int32 and len(source.labels) == len(source)
        counts = np.bincount(source.labels, minlength=len(source.classes))
        assert counts.min() >= (6 if split == "train" else 4)
        for i in range(3 if name == "retinopathy" else len(source)):
            sample = check(source[i], name, len(source.classes))
            assert sample["key"] == source.keys[i] and sample["label"] == source.labels[i]
            if name not in OTHER_LOOK:
                seen = sample["image"].reshape(-1, 3).mean(axis=0)
                wanted = np.concatenate(make.COLOURS)[sample["label"]]
                np.testing.assert_allclose(seen, wanted, atol=8)
    train, test = sources.values()
    assert train.classes == test.classes and len(train.classes) == len(set(train.labels))
    assert not np.array_equal(train[0]["image"], test[0]["image"])


@pytest.mark.parametrize("name", READERS)
def test_fingerprint_is_that_of_a_copy_until_a_file_changes(name, official, copy):
    splits = ("train", "test")
    first = {split: fingerprint(load(name, split, official)) for split in splits}
    root = official if ROWS[name][0] is None else copy(name)
    again = {split: load(name, split, root) for split in splits}
    assert first == {split: fingerprint(source) for split, source in again.items()}
    assert first["train"] != first["test"]
    if ROWS[name][0] is not None:
        source = again["test"]
        os.utime(source._file_of(source._items[-1]), ns=(1, 1))
        assert fingerprint(source) != first["test"]


@pytest.mark.parametrize("name", READERS)
def test_row_in_another_process(name, official):
    source = load(name, "test", official)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[1]["image"], source[1]["image"])
    part = Subset(again, [2, 0])
    assert part.keys == [source.keys[2], source.keys[0]]


def test_pixels(official):
    """Values that a mean colour does not show: planes, rows, grey values, the cut banner."""
    first = make.Example("train", 0, 0)
    for name, size in (("cifar10", 32), ("cifar100", 32), ("svhn", 32), ("gtsrb", 48)):
        np.testing.assert_array_equal(
            load(name, "train", official)[0]["image"], first.picture(size)
        )
    source = load("fer2013", "test", official)
    of_four = source[source.labels.tolist().index(4)]["image"]
    np.testing.assert_array_equal(of_four[..., 1], make.grey(make.Example("test", 4, 0)))
    source = load("aircraft", "train", official)
    assert all(source[i]["image"].shape == (60, 60, 3) for i in range(len(source)))
    # Every second training picture of a class is of another number: keys follow the lists.
    assert load("retinopathy", "train", official).labels[:6].tolist() == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("name", [name for name in make.TFDS_MAKERS if name != "pcam"])
def test_same_from_tfds(name, official, prepared):
    for split in ("train", "test"):
        one, two = load(name, split, official), load(name, split, prepared)
        assert one.keys == two.keys and one.classes == two.classes
        np.testing.assert_array_equal(one.labels, two.labels)
        if (
            name != "retinopathy"
        ):  # there the true data set holds pictures that are prepared already
            for i in (0, len(one) // 2, len(one) - 1):
                np.testing.assert_array_equal(one[i]["image"], two[i]["image"])


def test_class_numbers_are_those_of_tfds(official):
    """The order of names in the installed builders, where a tiny set has a part of them."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tfds.core.tfds_path("image_classification")
    for name, file in (
        ("food101", "food-101_classes.txt"),
        ("dtd", "dtd_key_attributes.txt"),
        ("caltech101", "caltech101_labels.txt"),
        ("sun397", "sun397_labels.txt"),
    ):
        order = (folder / file).read_text().split()
        numbers = [order.index(c) for c in load(name, "train", official).classes]
        assert numbers == sorted(numbers), name


def test_keys_of_tfds_are_kept(prepared, tmp_path):
    shutil.copytree(prepared / "tfds" / "dtd", tmp_path / "tfds" / "dtd")
    version = tmp_path / "tfds/dtd/3.0.1"
    kept = version / "intern_jax.train.json"
    kept.unlink(missing_ok=True)
    source = load("dtd", "train", tmp_path)
    content = json.loads(kept.read_text())
    assert sorted(content["keys"]) == source.keys
    # What is kept is read (here: other keys), and made again when it does not fit the records.
    kept.write_text(json.dumps(content | {"keys": [f"x{key}" for key in content["keys"]]}))
    assert load("dtd", "train", tmp_path).keys == [f"x{key}" for key in source.keys]
    for broken in (content | {"stamp": []}, content | {"labels": [99] * len(source)}, 3):
        kept.write_text(json.dumps(broken))
        assert load("dtd", "train", tmp_path).keys == source.keys


def test_damaged_tfds(prepared, tmp_path):
    shutil.copytree(prepared / "tfds" / "cars196", tmp_path / "tfds" / "cars196")
    version = tmp_path / "tfds/cars196/2.1.0"
    next(version.glob("*-test.array_record*")).unlink()
    fails("cars", tmp_path, "-test.array_record-00000-of-00001: missing; 1 of 1 record files")
    (version / "dataset_info.json").write_text("{")
    fails("cars", tmp_path, "dataset_info.json: cannot be read")


def test_tfds_version_without_keys(tmp_path):
    rows = [("a", {"image": make.picture(0, 0), "label": 0})]
    splits = {"train": rows, "validation": rows}
    make.prepare(tmp_path, "food101", "2.0.0", splits, {"label": make.FOOD})
    fails("food101", tmp_path, "no feature 'id'", "prepare the version that has it")


def test_highest_version_is_read(tmp_path):
    for version in ("2.9.0", "2.10.0", "incomplete"):
        make.write(tmp_path / f"dtd/{version}/dataset_info.json", "{}")
    (tmp_path / "dtd/3.0.0").mkdir()
    assert tfds_rows.find(tmp_path, ROWS["dtd"][1]).name == "2.10.0"


def test_where_data_is_looked_for(official, prepared, tmp_path):
    fails("food101", tmp_path, f"{tmp_path}/food101 or {tmp_path}/tfds/food101: missing", "--list")
    fails("pcam", tmp_path, f"{tmp_path}/tfds/patch_camelyon: missing")
    shutil.copytree(prepared / "tfds" / "food101", tmp_path / "tfds" / "food101")
    assert len(load("food101", "test", tmp_path)) == 24
    # The folder comes first, even a broken one: a subset never changes its source unseen.
    (tmp_path / "food101").mkdir()
    fails("food101", tmp_path, f"{tmp_path}/food101/food-101/meta/classes.txt: missing")
    shutil.copytree(official / "food101" / "food-101", tmp_path / "food101", dirs_exist_ok=True)
    assert load("food101", "test", tmp_path).keys == load("food101", "test", official).keys


# Files of the archives that no reader needs.
UNUSED = {"coarse_label_names.txt", "Abyssinian_100.mat", "tmp"}
UNUSED |= {"sun_bhenjvsvrtumjuri.jpg", "missing.txt"}
WITHOUT_LISTS = {"caltech101", "eurosat", "resisc45"}


@pytest.mark.parametrize("name", [name for name in READERS if name not in {"pcam", *WITHOUT_LISTS}])
def test_missing_file_is_named(name, copy):
    root = copy(name)
    pictures = (".jpg", ".jpeg", ".ppm")
    paths = sorted(p for p in (root / name).rglob("*") if p.is_file())
    paths = [p for p in paths if p.name not in UNUSED and p.suffix != ".npz"]
    listed = [p for p in paths if p.suffix in pictures]
    for path in [p for p in paths if p not in listed] + listed[:1] + listed[-1:]:
        aside = path.rename(path.with_name("aside"))
        fails(name, root, path.name, "missing")
        aside.rename(path)
    for split in ("train", "test"):
        load(name, split, root)


def test_missing_pictures_are_counted(copy):
    root = copy("aircraft")
    images = root / "aircraft/fgvc-aircraft-2013b/data/images"
    for i in (0, 5, 7):
        (images / f"{34309 + i:07d}.jpg").unlink()
    said = f"{images}/0034309.jpg: missing; 3 of 32 listed pictures are not there;"
    fails("aircraft", root, said + " extract fgvc-aircraft-2013b.tar.gz again")


def test_sets_without_lists(copy):
    for name, inner in (("caltech101", "Faces"), ("eurosat", "SeaLake"), ("resisc45", "wetland")):
        root = copy(name)
        folder = next((root / name).rglob(inner))
        for path in folder.iterdir():
            path.unlink()
        fails(name, root, f"{folder}: class without pictures", "extract")
        shutil.rmtree(root / name)
        (root / name).mkdir()
        fails(name, root, "no such folder", "extract")


def test_lost_videos_are_named(copy):
    root = copy("kinetics700")
    (root / "kinetics700/missing.txt").unlink()
    said = "gone_videos_000003_000013.jpg: missing; 1 of 33 listed pictures"
    fails("kinetics700", root, said, "missing.txt")


# Example, list file, what is replaced by what, the error.
BROKEN = (
    ("aircraft", "images_variant_train.txt", "0034309 ", "../../0034309 ", "lies outside"),
    (
        "aircraft",
        "images_variant_test.txt",
        "Boeing 717",
        "Boeing 7",
        "'Boeing 7' is none of the 4",
    ),
    ("dtd", "train1.txt", "banded/", "banded/../../", "lies outside; get the list again"),
    ("dtd", "train1.txt", "banded/", "/etc/", "'' is none of the 4 classes"),
    ("dtd", "test1.txt", "banded/banded_0101", "banded/banded_0100", "listed twice"),
    ("food101", "train.json", "[", "{", "no JSON object"),
    ("pets", "trainval.txt", "Abyssinian_1 1", "Abyssinian_1 one", "line 1: 'one' is not a whole"),
    ("pets", "trainval.txt", " 4 ", " 9 ", "class numbers have gaps"),
    ("gtsrb", "GT-final_test.csv", "ClassId", "Class", "no column 'ClassId'"),
    ("gtsrb", "GT-00001.csv", ";43;1", "", "row 2 has 6 of 8 columns"),
    ("retinopathy", "trainLabels.csv", "14_right,4", "14_right,7", "label: 7 at index 4"),
    ("kinetics700", "val.csv", "abseiling", "x" * 200_000, "field larger than field limit"),
    ("kinetics700", "val.csv", ",32,42", ",soon,42", "'soon' is not a time"),
    ("kinetics700", "val.csv", "abseiling", "sleeping", "'sleeping' is none of the 4 classes"),
    ("ucf101", "classInd.txt", "4 YoYo", "5 YoYo", "class numbers have gaps"),
    ("ucf101", "testlist01.txt", "Archery/", "Archer/", "'Archer' is none of the 4 classes"),
    ("fer2013", "fer2013.csv", "emotion,", "feeling,", "no columns emotion, pixels, Usage"),
    ("fer2013", "fer2013.csv", "\n0,", "\nx,", "no three columns at byte 21"),
    ("sun397", "Testing_01.txt", "/a/abbey/", "/a/abbot/", "'/a/abbot' is none of the 4"),
    ("cifar10", "batches.meta.txt", "cat\n", "", "label: 3 at index 3 is outside 0..2"),
)


@pytest.mark.parametrize("name, file, old, new, said", BROKEN, ids=[row[4] for row in BROKEN])
def test_broken_list_is_named(name, file, old, new, said, copy):
    root = copy(name)
    path = next((root / name).rglob(file))
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())
    fails(name, root, said)


def test_broken_large_files(copy):
    root = copy("cifar10")
    path = root / "cifar10/cifar-10-batches-bin/data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    fails("cifar10", root, "data_batch_3.bin: 24484 bytes are not whole records of 3073")
    path.write_bytes(b"")
    fails("cifar10", root, "data_batch_3.bin: cannot be read")
    root = copy("svhn")
    (root / "svhn/test_32x32.mat").write_bytes(b"not found, " * 20)
    fails("svhn", root, "test_32x32.mat: no 'y' can be read", "get test_32x32.mat again")
    make.write_mat(root / "svhn/train_32x32.mat", {"y": np.ones((3, 1)), "X": np.ones((32, 3))})
    with pytest.raises(UserError, match=r"'X' is not uint8 \[32,32,3,N\]"):
        load("svhn", "train", root)[0]
    root = copy("flowers102")
    ids = {name: np.array([[1, 99]]) for name in ("trnid", "tstid")}
    make.write_mat(root / "flowers102/setid.mat", ids)
    fails("flowers102", root, "setid.mat: a picture without a label")
    root = copy("cars")
    annotations = make.records(("bbox_x1", "fname"), [[1, "00001.jpg"]])
    make.write_mat(root / "cars/cars_test_annos_withlabels.mat", {"annotations": annotations})
    fails("cars", root, "cars_test_annos_withlabels.mat: pictures without their class")


def test_broken_pictures(copy):
    root = copy("gtsrb")
    path = root / "gtsrb/GTSRB/Final_Test/Images/00000.ppm"
    whole = path.read_bytes()
    for data, cause in (
        (whole[:-1], "truncated"),
        (b"P6 48 48 255\n" + whole[:-40], "truncated"),
        (b"", "unknown format"),
        (b"P5 48 48 255\n" + bytes(48 * 48), "unknown format"),
        (b"P6 999999 999999 255\n" + bytes(100), "too many pixels"),
    ):
        path.write_bytes(data)
        with pytest.raises(CorruptSample, match=cause):
            load("gtsrb", "test", root)[0]
    root = copy("fer2013")
    path = root / "fer2013/fer2013.csv"
    for old, new in ((b" 1", b" 999"), (b" 1", b" x"), (b",1", b",7 1")):
        content = path.read_bytes()
        path.write_bytes(content.replace(old, new))
        with pytest.raises(CorruptSample, match="damaged picture"):
            load("fer2013", "train", root)[0]
        path.write_bytes(content)


def test_other_fer2013_file(official, tmp_path):
    """icml_face_data.csv: the columns in another order, with spaces in the header."""
    lines = (official / "fer2013/fer2013.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    text = "emotion, Usage, pixels\n" + "".join(f"{e},{u},{p}\n" for e, p, u in rows)
    make.write(tmp_path / "fer2013/icml_face_data.csv", text)
    for split in ("train", "test"):
        one, two = load("fer2013", split, official), load("fer2013", split, tmp_path)
        assert one.keys == two.keys
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one[9]["image"], two[9]["image"])


def test_ranked_split_has_the_published_sizes():
    sizes = {
        # EuroSAT's classes; Caltech-101's smallest and largest.
        "eurosat": [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000],
        "resisc45": [700] * 45,
    }
    for name, counts in sizes.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        keys = [f"{label}_{i}.jpg" for i, label in enumerate(labels)]
        part = examples_lib.ranked_split(keys, labels, 0.6, 0.2)
        published = {"eurosat": (16_200, 5_400), "resisc45": (18_900, 6_300)}[name]
        assert ((part == 0).sum(), (part == 2).sum()) == published
    part = examples_lib.ranked_split([f"a{i}" for i in range(831)], [0] * 400 + [1] * 431, 30, 0.0)
    assert (part == 0).sum() == 60 and (part == 2).sum() == 771


def test_ranked_split_follows_the_documented_hash():
    keys, labels = [f"k{i}" for i in range(20)], [i % 2 for i in range(20)]
    part = examples_lib.ranked_split(keys, labels, 0.6, 0.2)
    for label in (0, 1):
        mine = [k for k, n in zip(keys, labels, strict=True) if n == label]
        mine.sort(key=lambda k: hashlib.sha256(f"split:{k}".encode()).hexdigest())
        found = {k: p for k, p, n in zip(keys, part, labels, strict=True) if n == label}
        assert [found[k] for k in mine] == [0] * 6 + [1] * 2 + [2] * 2
    order = np.random.default_rng(0).permutation(20)
    mixed = examples_lib.ranked_split(
        [keys[i] for i in order], [labels[i] for i in order], 0.6, 0.2
    )
    np.testing.assert_array_equal(mixed, part[order])


def test_retina_against_scipy():
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    photo = make.eye(make.Example("train", 2, 0))
    photo = np.kron(photo, np.ones((10, 10, 1), np.uint8))
    out = rescaled(photo)
    assert out.shape == (540, 540, 3)
    row = photo[320].astype(int).sum(axis=1)
    scale = 300 / ((row > row.mean() / 10).sum() / 2)
    size = (round(640 * scale), round(640 * scale))
    small = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
    small = small.astype(np.float64)
    blurred = gaussian_filter(small, (10, 10, 0), mode="mirror", truncate=3.0)
    sharp = np.clip(4 * small - 4 * blurred + 128, 0, 255)
    top, left = size[1] // 2 - 270, size[0] // 2 - 270
    wanted = sharp[top : top + 540, left : left + 540]
    y, x = np.mgrid[:540, :540]
    inside = (y - 270) ** 2 + (x - 270) ** 2 <= 270**2
    np.testing.assert_allclose(out[inside], wanted[inside], atol=0.6)
    assert (out[~inside] == 128).all()
    assert max(rescaled(np.zeros((50, 70, 3), np.uint8)).shape) <= 540
    spot = np.zeros((50, 4000, 3), np.uint8)
    spot[25, :3] = 255
    assert max(rescaled(spot).shape) <= 540


def test_load(official):
    assert gvb.load("pets", "train", str(official)).keys[0] == "Abyssinian_1.jpg"
    assert gvb.names()[:20] == tuple(READERS)
    assert "images.tar.gz" in gvb.steps("pets") and "oxford_iiit_pet" in gvb.steps("pets")
    with pytest.raises(UserError, match="split: 'val'; known: train, test"):
        gvb.load("pets", "val", official)
    with pytest.raises(UserError, match="pet: no such data set of GV-B; known: cifar10"):
        gvb.load("pet", "train", official)
