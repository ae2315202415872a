"""VOC 2012 + SBD masks, KITTI and NYUv2 read from tiny sets of their true format: values, quirks, damage."""

import io
import os
import shutil
import struct
import zlib

import make_scenes as make
import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.gvb.scenes import depth, voc
from intern_jax.data.gvb.scenes.readers import READERS
from intern_jax.data.read import annotations as reading
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.schema.source import Source

ROWS = ("voc2012_seg", "kitti", "nyuv2")


def refused(row, root, split, *said):
    with pytest.raises(UserError) as error:
        READERS[row].read(root, split)
    assert "\n" not in str(error.value)
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_samples_follow_the_schema(made, row, split):
    source = READERS[row].read(made, split)
    assert isinstance(source, Source) and source.name == row and source.labels is None
    assert source.family == ("segmentation" if row == "voc2012_seg" else "depth")
    assert (
        len(source) == len(source.keys) == len(set(source.keys)) >= (6 if split == "train" else 4)
    )
    for i in range(len(source)):
        sample = check(source[i], row, len(source.classes) or None)
        assert sample["key"] == source.keys[i]


@pytest.mark.parametrize("row", ROWS)
def test_fingerprints_cover_pictures_and_truth(root, row):
    source = READERS[row].read(root, "test")
    truth = source.masks if row == "voc2012_seg" else source.depths
    found = {fingerprint(source), fingerprint(READERS[row].read(root, "train"))}
    for path in (source.pictures[0], truth[-1]):
        os.utime(path, ns=(1, 1))
        found.add(fingerprint(READERS[row].read(root, "test")))
    assert len(found) == 4


# --- VOC 2012 + SBD ----------------------------------------------------------------------------


def test_masks_by_value(made):
    test = READERS["voc2012_seg"].read(made, "test")
    assert (
        len(test.classes) == 21 and test.classes[0] == "background" and test.classes[15] == "person"
    )
    assert test.keys == [f"VOC2012/{name}" for name in sorted(make.SEG_VAL)]
    for i, key in enumerate(test.keys):
        sample = test[i]
        np.testing.assert_array_equal(sample["mask"], make.mask(int(key[-6:]), border=True))
        assert 255 in sample["mask"]


def test_train_is_voc_train_and_what_sbd_adds(made):
    train = READERS["voc2012_seg"].read(made, "train")
    names = {*make.SEG_TRAIN, *make.SBD_TRAIN, *make.SBD_VAL} - {*make.SEG_VAL}
    assert len(names) == 7 and train.keys == [f"VOC2012/{name}" for name in sorted(names)]
    for i, key in enumerate(train.keys):
        # VOC's own mask, with its border, where both have one; SBD's masks have none.
        own = key.rpartition("/")[2] in make.SEG_TRAIN
        np.testing.assert_array_equal(train[i]["mask"], make.mask(int(key[-6:]), border=own))


@pytest.mark.parametrize("listed", [False, True])
def test_augmented_pngs_in_place_of_sbd(root, listed):
    sbd = READERS["voc2012_seg"].read(root, "train")
    expected = [sbd[i]["mask"] for i in range(len(sbd))]
    folder = root / "voc2012_seg/VOCdevkit/VOC2012"
    for name, seed in (make.SEG_TRAIN | make.SEG_VAL | make.SBD_TRAIN | make.SBD_VAL).items():
        # Those made with common tools are grey, without a palette.
        make.save(make.mask(seed, border=False), folder / "SegmentationClassAug" / f"{name}.png")
    shutil.rmtree(root / "voc2012_seg/benchmark_RELEASE")
    if listed:
        names = {*make.SEG_TRAIN, *make.SBD_TRAIN, "2008_000053"}
        lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in sorted(names)]
        make.save_lines(lines, folder / "ImageSets/Segmentation/train_aug.txt")
    source = READERS["voc2012_seg"].read(root, "train")
    assert source.keys == sbd.keys
    for i, mask in enumerate(expected):
        np.testing.assert_array_equal(source[i]["mask"], mask)


def test_masks_damage(root):
    base = root / "voc2012_seg"
    (base / "benchmark_RELEASE/dataset/cls/2008_000051.mat").unlink()
    refused("voc2012_seg", root, "train", "1 of 4 listed", "2008_000051.mat", "SBD")
    shutil.rmtree(base / "benchmark_RELEASE")
    refused(
        "voc2012_seg", root, "train", "benchmark_RELEASE/dataset: no such folder", "benchmark.tgz"
    )
    assert len(READERS["voc2012_seg"].read(root, "test")) == 4
    (base / "VOCdevkit/VOC2012/SegmentationClass/2007_000040.png").unlink()
    refused("voc2012_seg", root, "test", "1 of 4 listed", "2007_000040.png")
    shutil.rmtree(base)
    refused("voc2012_seg", root, "test", "VOC2012: no such folder")


def test_mask_of_another_size_or_kind(root):
    source = READERS["voc2012_seg"].read(root, "test")
    make.save_palette(np.zeros((5, 6), np.uint8), source.masks[0])
    make.save(make.picture(41), source.masks[1])
    for i, said in ((0, "other size"), (1, "no palette and no 8-bit grey")):
        with pytest.raises(CorruptSample, match=said):
            source[i]


def test_sbd_files_damaged(root):
    import scipy.io

    source = READERS["voc2012_seg"].read(root, "train")
    i = source.keys.index("VOC2012/2008_000050")
    scipy.io.savemat(source.masks[i], {"GTinst": np.zeros((2, 2))})
    with pytest.raises(CorruptSample, match="no 'GTcls'"):
        source[i]
    scipy.io.savemat(source.masks[i], {"GTcls": {"Boundaries": 1}})
    with pytest.raises(CorruptSample, match=r"no GTcls\.Segmentation"):
        source[i]
    source.masks[i].write_bytes(source.masks[i].read_bytes()[:200])
    with pytest.raises(CorruptSample, match="damaged annotation"):
        source[i]


# --- PNGs of numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_any_depth(tmp_path, bits):
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (7, 9), dtype=np.uint8)
    make.save_palette(numbers, tmp_path / "a.png", bits=bits)
    # Colours are looked up by nobody: entries of the palette may even be equal.
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(reading.class_indices(tmp_path / "a.png", "a"), numbers)


def test_sixteen_bits_are_kept(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 1 << 16, (7, 9), dtype=np.uint16)
    make.save(numbers, tmp_path / "a.png")
    found = reading.depth_units(tmp_path / "a.png", "a")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, numbers)
    with pytest.raises(CorruptSample, match="no palette"):
        reading.class_indices(tmp_path / "a.png", "a")


def png(*chunks):
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in (*chunks, (b"IEND", b"")):
        crc = zlib.crc32(kind + content)
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    return data


def test_harmful_pngs(tmp_path):
    path = tmp_path / "a.png"
    out = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(out, "PNG")
    good = out.getvalue()
    huge = png((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)))
    flipped = bytearray(good)
    flipped[good.index(b"IDAT") + 8] ^= 1
    for content, cause in (
        (huge, "too many pixels"),
        (bytes(flipped), "checksum does not match"),
        (good[:-20], "damaged picture"),
        (good[:20], "damaged picture"),
        (b"GIF89a", "unknown format"),
        (b"", "unknown format"),
    ):
        path.write_bytes(content)
        with pytest.raises(CorruptSample, match=cause):
            reading.class_indices(path, "a")
    with pytest.raises(CorruptSample, match="missing file"):
        reading.class_indices(tmp_path / "b.png", "b")
    with pytest.raises(CorruptSample, match="not a file"):
        reading.class_indices(tmp_path, "c")


# --- KITTI and NYUv2 ---------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["kitti", "nyuv2"])
def test_depth_in_metres(made, row):
    for split in ("train", "test"):
        source = READERS[row].read(made, split)
        for i, key in enumerate(source.keys):
            sample, expected = source[i], make.depth(int(key[-5:]))
            np.testing.assert_allclose(sample["depth"], expected, rtol=1e-6)
            np.testing.assert_array_equal(sample["depth_valid"], expected > 0)
            assert sample["depth"].dtype == np.float32 and not sample["depth_valid"][0].any()


def test_kitti_lines_without_depth_are_counted(made):
    test, train = READERS["kitti"].read(made, "test"), READERS["kitti"].read(made, "train")
    assert test.skipped == 1 and len(test) == 4 and train.skipped == 0
    assert test.keys[0] == "2011_09_26/2011_09_26_drive_0013_sync/image_02/data/0000000311"


def test_kitti_depth_put_together_and_pictures_apart(root):
    expected = READERS["kitti"].read(root, "train")
    truth = root / "kitti/data_depth_annotated"
    for part in ("train", "val"):
        for drive in (truth / part).iterdir():
            drive.rename(truth / drive.name)
        (truth / part).rmdir()
    (root / "kitti/raw").mkdir()
    for date in ("2011_09_26", "2011_09_28"):
        (root / "kitti" / date).rename(root / "kitti/raw" / date)
    # The lists with both cameras, and by their other name.
    path = root / "kitti/eigen_train_files_with_gt.txt"
    lines = [f"{line} right.png right_depth.png" for line in path.read_text().splitlines()]
    make.save_lines([*lines, lines[0]], root / "kitti/train_test_inputs/eigen_train_files.txt")
    path.unlink()
    source = READERS["kitti"].read(root, "train")
    assert source.keys == expected.keys
    np.testing.assert_array_equal(source[3]["depth"], make.depth(304).astype(np.float32))


def test_evaluation_masks(made):
    kitti, nyu = (READERS[row].read(made, "test") for row in ("kitti", "nyuv2"))
    assert kitti.depth_range == (1e-3, 80.0) and nyu.depth_range == (1e-3, 10.0)
    expected = np.zeros((480, 640), bool)
    expected[45:471, 41:601] = True
    np.testing.assert_array_equal(nyu.evaluation_mask(480, 640), expected)
    expected = np.zeros((375, 1242), bool)
    expected[153:371, 44:1197] = True
    np.testing.assert_array_equal(kitti.evaluation_mask(375, 1242), expected)
    # KITTI's other sizes, by the public evaluation's formula.
    for height, width in ((370, 1224), (370, 1226), (374, 1238), (376, 1241), (352, 1216)):
        rows, columns = np.nonzero(kitti.evaluation_mask(height, width))
        assert rows.min() == int(0.40810811 * height) and columns.min() == int(0.03594771 * width)
        assert rows.max() + 1 == int(0.99189189 * height)
        assert columns.max() + 1 == int(0.96405229 * width)


def test_kitti_damage(root):
    folder = root / "kitti"
    drive = folder / "data_depth_annotated/train/2011_09_28_drive_0021_sync"
    next((drive / "proj_depth/groundtruth/image_02").iterdir()).unlink()
    refused(
        "kitti",
        root,
        "train",
        "1 of 6 listed",
        "2011_09_28_drive_0021_sync",
        "data_depth_annotated.zip",
    )
    shutil.rmtree(folder / "2011_09_28")
    refused("kitti", root, "train", "3 of 6 listed", "2011_09_28/")
    path = folder / "eigen_test_files_with_gt.txt"
    path.write_text("2011_09_26/2011_09_26_drive_0002_sync\n")
    refused("kitti", root, "test", str(path), "entry 1", "names no ground truth")
    path.write_text("../secret.png ../secret.png 1\n")
    refused("kitti", root, "test", "lies outside")
    path.write_text("a.png None 1\n")
    refused("kitti", root, "test", "name no pictures")
    path.unlink()
    refused("kitti", root, "test", "eigen_test_files_with_gt.txt: no such file", "BTS")
    shutil.rmtree(folder / "data_depth_annotated")
    refused("kitti", root, "train", "data_depth_annotated: no such folder")


def test_nyu_damage(root):
    folder = root / "nyuv2"
    next((folder / "official_splits/test/office").iterdir()).unlink()
    refused("nyuv2", root, "test", "1 of 4 listed", "office", "official_splits")
    shutil.rmtree(folder)
    refused("nyuv2", root, "train", "nyuv2: no such folder", "prepare nyu_depth_v2 with TFDS")


def test_depth_of_another_kind(root):
    source = READERS["nyuv2"].read(root, "test")
    make.save(np.zeros((72, 96), np.uint8), source.depths[0])
    with pytest.raises(CorruptSample, match="no 16-bit grey"):
        source[0]


def test_nyu_from_tfds(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    make.nyuv2_tfds(tmp_path)
    train, test = (READERS["nyuv2"].read(tmp_path, split) for split in ("train", "test"))
    assert isinstance(test, depth.NyuTfds) and isinstance(test, Source)
    assert len(train) == 2 and len(test) == 1 and test.depth_range == (1e-3, 10.0)
    sample = check(test[0], "nyuv2")
    assert sample["image"][0, 0, 0] == 3 and test.evaluation_mask(480, 640).sum() == 426 * 560
    assert not sample["depth_valid"][0].any() and sample["depth_valid"][1:].all()
    assert sample["depth"][1, 0] == 1.5 and sample["depth"][1, 639] == make.FAR


def test_every_row_says_how_to_get_it():
    for row, reader in READERS.items():
        assert "ROOT/" in reader.steps and reader.steps == reader.steps.strip(), row
    assert voc.MASK_CLASSES[1:] == voc.CLASSES
