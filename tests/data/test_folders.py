"""Folders as people have them: what is read, what is passed over and told, and what is asked before it is guessed."""

import logging
import logging.handlers
import multiprocessing
import os
import pathlib
import shutil
import tarfile
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.open.opening import open_data, open_split, recognise
from intern_jax.data.read import walking
from intern_jax.data.read.copies import copies
from intern_jax.data.read.formats import EXTENSIONS, FORMATS, reads_avif
from intern_jax.data.sources.folder import ImageFolder


def put(root: pathlib.Path, *files: str) -> pathlib.Path:
    """Pictures below a folder, each with pixels of its own."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(zlib.crc32(file.encode())).integers(
            0, 256, (8, 8, 3), np.uint8
        )
        Image.fromarray(noise).save(path)
    return root


def classes(*splits: str) -> list[str]:
    return [
        f"{split}/{name}/{i}.png" for split in splits for name in ("cat", "dog") for i in (0, 1)
    ]


@pytest.fixture
def told(caplog):
    """The lines of the log so far, joined."""
    caplog.set_level(logging.INFO, logger="intern_jax")
    return lambda: "\n".join(caplog.messages)


def refused(root, **settings) -> str:
    with pytest.raises(UserError) as error:
        open_data(root, "folders", **settings)
    assert "\n" not in str(error.value) and str(root) in str(error.value)
    return str(error.value)


def test_every_format_is_read_by_its_suffix(tmp_path, told):
    for one in FORMATS:
        for suffix in one.suffixes:
            if one.name == "AVIF" and not reads_avif():
                continue
            for name in ("cat", "dog"):
                put(tmp_path, f"{name}/a.png")
                made = Image.open(tmp_path / name / "a.png")
                path = tmp_path / name / f"a{suffix.upper()}"
                made.save(path, one.name)
    source = open_data(tmp_path)
    there = {pathlib.PurePath(key).suffix.lower() for key in source.keys}
    assert there == {*EXTENSIONS} - (set() if reads_avif() else {".avif"}) and not source.refused
    for i in range(len(source)):
        assert source[i]["image"].shape == (8, 8, 3)
    assert f"{tmp_path}: {len(source)} pictures of 2 classes" in told()


def test_without_avif_its_files_are_passed_over_with_the_reason(tmp_path, told, monkeypatch):
    monkeypatch.setattr(walking, "reads_avif", lambda: False)
    put(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "cat/1.avif").write_bytes(b"x")
    assert len(open_data(tmp_path)) == 2
    assert "1 passed over: AVIF needs Pillow 11.3 or newer, built with libavif" in told()


def test_what_is_passed_over_is_told_in_one_line_per_cause(tmp_path, told):
    put(tmp_path, "cat/0.png", "cat/1.png", "dog/0.png", "cat/.ipynb_checkpoints/1-checkpoint.png")
    put(tmp_path, "cat/.hidden.png", "dog/._0.png", "__MACOSX/cat/._0.png", "stray.png")
    for name in ("scan0.heic", "scan1.HEIC", "notes.txt", "README"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "dog/pipe.png")
    source = open_data(tmp_path)
    assert source.keys == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert source.refused == {
        "folder that a system or archive has left": 1,
        "hidden folder": 1,
        "hidden file": 2,
        "picture outside of the class folders": 1,
        "suffix .heic, which is not read": 2,
        "suffix .txt, which is not read": 1,
        "no suffix": 1,
        "link that leads nowhere": 1,
        "no file": 1,
    }
    lines = told().splitlines()
    assert len(lines) == 1 + len(source.refused)
    heic = "2 passed over: suffix .heic, which is not read"
    assert f"{tmp_path}: {heic} (as {tmp_path / 'cat/scan0.heic'})" in lines


def test_a_folder_without_anything_that_is_read_says_what_is_there(tmp_path):
    put(tmp_path, "cat/0.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/0.heic").write_bytes(b"x")
    said = refused(tmp_path)
    assert "dog: class without pictures (passed over: suffix .heic, which is not read 1)" in said


def test_an_underscore_begins_a_class_like_any_letter(tmp_path):
    source = open_data(put(tmp_path, "_other/0.png", "cat/0.png"))
    assert source.classes == ("_other", "cat") and len(source) == 2


def test_linked_folders_are_followed_and_loops_noticed(tmp_path, told):
    put(tmp_path / "set", "cat/0.png", "cat/deep/1.png")
    put(tmp_path / "elsewhere", "a.png", "b.png")
    (tmp_path / "set/dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set/cat/all").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set/cat/deep/again").symlink_to(tmp_path / "set/cat", target_is_directory=True)
    (tmp_path / "set/cat/twin").symlink_to(tmp_path / "set/cat/deep", target_is_directory=True)
    source = open_data(tmp_path / "set")
    assert source.keys == ["cat/0.png", "cat/deep/1.png", "dog/a.png", "dog/b.png"]
    assert source.refused == {"link to a folder that is read already": 3}
    assert "3 passed over: link to a folder that is read already" in told()


def test_two_spellings_of_an_accent_are_one_class(tmp_path, told):
    written = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    put(tmp_path, f"{written[0]}/0.png", f"{written[1]}/1.png", "bar/0.png")
    source = open_data(tmp_path)
    assert source.classes == ("bar", written[0]) and source.labels.tolist() == [0, 1, 1]
    assert source.keys[1:] == [f"{written[0]}/0.png", f"{written[0]}/1.png"]
    assert f"class '{written[0]}' is joined from 'cafe\\u0301', 'caf\\xe9'" in told()
    # The order in which they are given decides, however it is written.
    assert ImageFolder(tmp_path, classes=(written[1], "bar")).labels.tolist() == [1, 0, 0]
    put(tmp_path, f"{written[1]}/0.png")
    assert "but for how accents are written; rename one" in refused(tmp_path)


def test_classes_that_differ_in_capitals_alone_are_told(tmp_path, told):
    put(tmp_path, "Cat/0.png", "cat/0.png", "dog/0.png")
    assert open_data(tmp_path).classes == ("Cat", "cat", "dog")
    assert "Cat, cat stay apart, though only capitals differ" in told()


def test_names_of_another_encoding_have_keys_that_a_file_can_hold(tmp_path):
    put(tmp_path, "cat/0.png", "dog/0.png")
    os.rename(tmp_path / "cat/0.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    source = open_data(tmp_path)
    assert source.keys[0] == "cat/caf\\udce9.png" and source[0]["image"].shape == (8, 8, 3)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
def test_split_folders_are_splits_and_no_classes(tmp_path, told, names):
    put(tmp_path, *classes(*names))
    put(tmp_path, "docs/figure.png", "cover.png", f"{names[0]}/stray.png")
    assert recognise(tmp_path) == "folders"
    source = open_data(tmp_path)
    assert source.classes == ("cat", "dog") and source.splits == ("train", "val", "test")
    assert source.keys == sorted(classes(names[0])) and source.labels.tolist() == [0, 0, 1, 1]
    assert f"{tmp_path}: split train of train, val, test: 4 pictures of 2 classes" in told()
    assert source.refused == {
        "picture outside of the class folders": 2,
        "folder beside the splits, of another name or without classes": 1,
    }
    test = open_data(tmp_path, split="test")
    assert test.keys == sorted(classes(names[2])) and test.split_of(0) == "test"
    assert len(open_data(tmp_path, split="train+val")) == 8
    said = refused(tmp_path, split="tests")
    assert "no split 'tests'; there are train, val, test; correct split" in said


def test_classes_of_a_split_are_numbered_as_in_train(tmp_path):
    put(tmp_path, "train/ant/0.png", *classes("train"), "test/dog/0.png", "valid/cat/5.png")
    for split, expected in (("train", [0, 1, 1, 2, 2]), ("test", [2]), ("val+test", [2, 1])):
        source = open_data(tmp_path, split=split)
        assert source.classes == ("ant", "cat", "dog") and source.labels.tolist() == expected
    put(tmp_path, "test/emu/0.png")
    assert "emu: folder is none of the 3 classes" in refused(tmp_path, split="test")


def test_test_pictures_without_labels_are_passed_over(tmp_path, told):
    """As competitions publish them."""
    put(tmp_path, *classes("train"), "test/0.png", "test/1.png")
    source = open_data(tmp_path)
    assert source.splits == ("train",) and source.classes == ("cat", "dog")
    assert f"without classes (as {tmp_path / 'test'})" in told()


def test_folders_that_may_be_splits_or_classes_are_asked_about(tmp_path):
    put(tmp_path, "train/0.png", "test/0.png")
    assert "say split=none if these are the classes" in refused(tmp_path)
    assert open_data(tmp_path, split="none").classes == ("test", "train")
    put(tmp_path / "alone", *classes("train"))
    (tmp_path / "alone/annotations").mkdir()
    assert open_data(tmp_path / "alone").classes == ("cat", "dog")
    # Beside others it is a class like them, as in sets of vehicles.
    put(tmp_path / "vehicles", "train/0.png", "bus/0.png")
    assert open_data(tmp_path / "vehicles").classes == ("bus", "train")
    put(tmp_path / "parts", *classes("test", "val"))
    assert "has no split train; say which to read with split=val+test" in refused(
        tmp_path / "parts"
    )
    put(tmp_path / "both", *classes("train", "val", "valid"))
    assert "val and valid are both the split val; join them" in refused(tmp_path / "both")
    put(tmp_path / "plain", "cat/0.png", "dog/0.png")
    assert "no split 'test'; its folders are no splits" in refused(tmp_path / "plain", split="test")


def test_pictures_a_level_deeper_are_asked_about(tmp_path, told):
    put(tmp_path, "animals/cat/0.png", "animals/dog/0.png", "plants/rose/0.png", "plants/cat/1.png")
    assert recognise(tmp_path) == "folders"
    said = refused(tmp_path)
    assert (
        "level=1 if the classes are animals, plants, or level=2 if they are cat, dog, rose" in said
    )
    assert open_data(tmp_path, level=1).classes == ("animals", "plants")
    source = open_data(tmp_path, level=2)
    assert source.classes == ("cat", "dog", "rose") and source.labels.tolist() == [0, 1, 0, 2]
    assert "class 'cat' is joined from 'animals/cat', 'plants/cat'" in told()
    assert "level: 0; give 1" in refused(tmp_path, level=0)
    # Also below a split, and where only some classes are deeper.
    put(
        tmp_path / "splits",
        "train/animals/cat/0.png",
        "train/animals/dog/0.png",
        "train/plants/a/0.png",
    )
    assert "level=2" in refused(tmp_path / "splits")
    assert open_data(tmp_path / "splits", level=2).classes == ("a", "cat", "dog")
    put(tmp_path / "mixed", "cat/0.png", "cat/more/1.png", "dog/2021/0.png")
    assert "mixed: dog hold pictures in folders" in refused(tmp_path / "mixed")
    assert len(open_data(tmp_path / "mixed", level=1)) == 3


def test_a_folder_around_the_data_set_is_named(tmp_path):
    put(tmp_path, "flowers/daisy/0.png", "flowers/rose/0.png")
    said = refused(tmp_path)
    assert (
        f"has only the folder flowers, with folders daisy, rose; give {tmp_path / 'flowers'}"
        in said
    )


def test_copies_of_training_pictures_are_told(tmp_path, told):
    put(tmp_path, *classes("train", "test"))
    copied = (tmp_path / "train/cat/0.png").read_bytes()
    (tmp_path / "test/dog/copy.png").write_bytes(copied)
    open_data(tmp_path)
    assert "exact copies" not in told()
    open_data(tmp_path, split="test")
    assert (
        f"test: 1 of 5 pictures are exact copies of training pictures (as {tmp_path}/test/dog/copy"
        in told()
    )
    for path in (tmp_path / "test/dog/copy.png", tmp_path / "test/cat/0.png"):
        path.write_bytes(copied[:-1] + b"x")
    assert told().count("exact copies") == 1
    open_data(tmp_path, split="test")
    assert told().count("exact copies") == 1  # of one size, and other bytes


def test_a_row_of_one_s_own_takes_the_splits_of_one_folder(tmp_path, told):
    put(tmp_path / "set", *classes("train", "test", "val"))
    put(tmp_path / "set", "train/emu/0.png")
    train, test = (open_split(one, tmp_path / "set", tmp_path / "set") for one in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog", "emu")
    assert test.keys == sorted(classes("test"))
    shutil.rmtree(tmp_path / "set/test")
    val = open_split("test", tmp_path / "set", tmp_path / "set")
    assert val.keys == sorted(classes("val")) and val.classes == train.classes
    put(tmp_path / "one", *classes("train"))
    with pytest.raises(UserError, match="has the splits train, and no test; add it"):
        open_split("test", tmp_path / "one", tmp_path / "one")
    # Of two folders, copies are told too.
    put(tmp_path / "a", "cat/0.png", "dog/0.png")
    put(tmp_path / "b", "cat/1.png", "dog/0.png")
    open_split("test", tmp_path / "a", tmp_path / "b")
    assert "1 of 2 pictures are exact copies of training pictures" in told()


def test_copies_are_found_by_content(tmp_path):
    put(tmp_path, *classes("a"))
    paths = sorted((tmp_path / "a").rglob("*.png"))
    twin = tmp_path / "twin.png"
    twin.write_bytes(paths[2].read_bytes())
    (tmp_path / "empty.png").write_bytes(b"")
    asked = [tmp_path / "gone.png", twin, tmp_path / "empty.png", paths[0]]
    assert copies([*paths, tmp_path / "empty.png"], asked) == [(1, 2), (3, 0)]


def test_suffixes_are_listed_in_one_place():
    """Another list would forget a format, or read one that is told as passed over."""
    package = pathlib.Path(walking.__file__).parents[2]
    lists = [
        path.relative_to(package).as_posix()
        for path in sorted(package.rglob("*.py"))
        if '".jpeg"' in path.read_text() and '".png"' in path.read_text()
    ]
    assert lists == ["data/read/formats.py"]


def test_captions_are_walked_alike(tmp_path, told):
    put(tmp_path, "0.png", "deep/1.gif", ".ipynb_checkpoints/0.png", "alone.bmp")
    (tmp_path / "linked").symlink_to(tmp_path / "deep", target_is_directory=True)
    (tmp_path / "2.heic").write_bytes(b"x")
    for stem in ("0", "deep/1", ".ipynb_checkpoints/0", "2"):
        (tmp_path / f"{stem}.txt").write_text("a cup")
    source = open_data(tmp_path)
    assert source.keys == ["0.png", "deep/1.gif"]
    assert source.refused == {
        "hidden folder": 1,
        "link to a folder that is read already": 1,
        "suffix .heic, which is not read": 1,
        "no caption": 1,
    }
    assert f"1 passed over: no caption (as {tmp_path / 'alone.bmp'})" in told()


def test_pictures_with_boxes_are_walked_alike(tmp_path, told):
    put(tmp_path / "yolo/images", "train/0.png", "train/1.tif", "train/.trash/0.png", "val/0.png")
    (tmp_path / "yolo/images/train/2.heic").write_bytes(b"x")
    (tmp_path / "yolo/labels/train").mkdir(parents=True)
    for i in range(2):
        (tmp_path / f"yolo/labels/train/{i}.txt").write_text(
            "0 0.5 0.5 0.5 0.5\n9 0.5 0.5 0.5 0.5\n"
        )
    settings = "names: [cup]\ntrain: images/train\nval: images/val\n"
    (tmp_path / "yolo/data.yaml").write_text(settings)
    source = open_data(tmp_path / "yolo")
    assert source.keys == ["0.png", "1.tif"]
    assert source.refused == {
        "hidden folder": 1,
        "suffix .heic, which is not read": 1,
        "box of an unknown class": 2,
    }
    assert "split train of train, val" in told() and told().count("box of an unknown class") == 1


def test_a_tar_tells_the_only_pictures_of_samples_that_it_does_not_read(tmp_path, told):
    put(tmp_path, "a.png")
    members = ("a.png", "a.seg.png", "b.heic", "b.txt", "c.old.png", "d.mp3", "d.json")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in members:
            tar.add(tmp_path / "a.png", name)
    source = open_data(tmp_path / "set.tar")
    assert source.keys == ["set/a"]
    lost = {"suffix .heic, which is not read": 1, "a second dot in its name": 1}
    assert {cause: source.refused[cause] for cause in lost} == lost
    assert "1 passed over: suffix .heic, which is not read" in told()


def test_a_tar_holds_pictures_of_every_format(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for name in ("a.bmp", "b.gif", "c.tif", "d.jfif"):
            put(tmp_path, "x.png")
            path = tmp_path / name
            Image.open(tmp_path / "x.png").save(path, {"d.jfif": "JPEG"}.get(name))
            tar.add(path, name)
    source = open_data(tmp_path / "set.tar")
    assert [source[i]["image"].shape for i in range(len(source))] == [(8, 8, 3)] * 4


def test_splits_without_train_have_the_classes_of_both(tmp_path):
    put(tmp_path, *classes("val"), "test/cat/0.png", "test/emu/0.png")
    source = open_data(tmp_path, split="val+test")
    assert source.classes == ("cat", "dog", "emu") and source.labels.tolist() == [0, 2, 0, 0, 1, 1]
    assert [source.split_of(i) for i in (0, 5)] == ["test", "val"]


def open_quietly(root, said):
    """What a worker process logs when it opens the same folder."""
    lines = logging.handlers.QueueHandler(said)
    logging.getLogger("intern_jax").addHandler(lines)
    logging.getLogger("intern_jax").setLevel(logging.INFO)
    said.put(str(len(open_data(root))))


def test_a_worker_does_not_tell_it_again(tmp_path, told):
    put(tmp_path, "cat/0.png", "dog/0.png")
    (tmp_path / "cat/notes.txt").write_text("x")
    open_data(tmp_path)
    assert "suffix .txt" in told()
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    worker = context.Process(target=open_quietly, args=(tmp_path, said))
    worker.start()
    assert said.get(timeout=60) == "2"
    worker.join()
