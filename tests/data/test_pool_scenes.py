"""Scenes of a pool's cut-outs: what is opaque stays out, splits share no picture, and workers see the same scenes."""

import concurrent.futures
import io
import json
import multiprocessing
import pickle

import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import UserError
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.sources import cutouts, pool
from intern_jax.data.sources.cutouts import SPLITS, PoolCutOuts, pool_scenes, write_cut_outs

COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
NAMES = ("red thing", "green thing", "blue thing")
OPAQUE, NO_ALPHA, EMPTY, BROKEN = range(30, 34)


def picture(row: int) -> np.ndarray:
    """A disc of its class's colour; rows from 30 on are no cut-outs."""
    y, x = np.mgrid[:40, :40]
    out = np.zeros((40, 40, 4), np.uint8)
    out[..., :3] = COLOURS[row % 3]
    radius = 10 + row % 7
    out[..., 3] = 255 * ((x - 20) ** 2 + (y - 20) ** 2 < radius**2)
    if row == OPAQUE:
        out[..., 3], out[0, 0, 3] = 255, 0
    if row == EMPTY:
        out[..., 3] = 0
    return out[..., :3] if row == NO_ALPHA else out


def make_pool(folder, salt=""):
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir()
    writer = ArrayRecordWriter(str(folder / "part-00000.records.array_record"), "group_size:1")
    for row in range(34):
        file = io.BytesIO()
        Image.fromarray(picture(row)).save(file, "PNG")
        sample = {"key": f"disc:{row}", "texts": [f"disc number {row}", "disc"]}
        if row % 2:
            del sample["texts"]
        data = file.getvalue()[:80] if row == BROKEN else file.getvalue()
        writer.write(pool.encode(sample, [data]))
    writer.close()
    manifest = {
        "format": pool.FORMAT,
        "name": "discs",
        "family": "pairs",
        "classes": [],
        "labelled": False,
        "parts": [34],
        "digest": fingerprints.combine("discs", salt),
    }
    (folder / pool.MANIFEST).write_text(json.dumps(manifest))
    return folder


def table(**changes):
    rows = np.arange(34)
    return {"rows": rows, "classes": rows % 3, "split": rows // 3 % 3, "names": NAMES} | changes


@pytest.fixture
def discs(tmp_path):
    """(pool folder, file of its cut-outs, counts by cause)."""
    folder = make_pool(tmp_path / "discs")
    file = tmp_path / "cut-outs.npz"
    return folder, file, write_cut_outs(file, folder, **table())


def test_what_is_no_cut_out_is_left_out_and_counted(discs):
    _, file, counts = discs
    assert counts == {"cut-outs": 30, "opaque": 2, "empty": 1, "truncated picture": 1}
    with np.load(file, allow_pickle=False) as content:
        assert content["rows"].tolist() == list(range(30))
        assert content["rows"].dtype == np.int64 and content["split"].dtype == np.uint8


def test_every_split_has_its_own_pictures_and_the_same_classes(discs):
    _, file, _ = discs
    seen = [PoolCutOuts(file, split) for split in SPLITS]
    rows = [set(bank.rows.tolist()) for bank in seen]
    assert [len(r) for r in rows] == [12, 9, 9] and not rows[0] & rows[1] and not rows[0] & rows[2]
    assert {pool_scenes(file, split).classes for split in SPLITS} == {("background", *NAMES)}
    assert len({pool_scenes(file, split).fingerprint() for split in SPLITS}) == 3


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_masks_and_boxes_have_the_class_of_what_is_drawn(discs, split, crowd):
    source = pool_scenes(discs[1], split, "detection", seed=3, size=96, length=20, crowd=crowd)
    compared = 0
    for i in range(20):
        sample = check(source[i], "scene", len(source.classes))
        colours = np.asarray(((0, 0, 0), *COLOURS))[sample["mask"]]
        inside = (sample["image"].astype(int) == colours).all(-1) & (sample["mask"] > 0)
        compared += inside.sum()
        # Discs have soft edges only where they are made smaller or larger.
        assert inside.sum() > 0.5 * (sample["mask"] > 0).sum()
        for (x1, y1, x2, y2), label in zip(
            sample["boxes"].astype(int), sample["box_labels"], strict=True
        ):
            assert (sample["mask"][y1:y2, x1:x2] == label).any()
    assert compared > 2000


def test_captions_have_the_records_words_or_else_the_class(discs):
    source = pool_scenes(discs[1], "train", "pairs", length=40)
    texts = {text for i in range(40) for text in source[i]["texts"]}
    names = set(source.cutouts.names)
    assert {"disc number 0", "red thing"} <= names and names <= texts and source.classes == ()


def scene(job):
    source, i = job
    return source[i]["image"]


def test_scenes_are_pure_in_threads_and_spawned_workers(discs):
    source = pool_scenes(discs[1], "pretrain", seed=5, length=12)
    backwards = {i: source[i]["image"] for i in reversed(range(12))}
    jobs = [(source, i) for i in range(12)]
    again = pool_scenes(discs[1], "pretrain", seed=5, length=99)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        in_threads = list(threads.map(scene, [(again, i) for i in range(12)]))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as workers:
        in_workers = list(workers.map(scene, jobs))
    for i in range(12):
        np.testing.assert_array_equal(in_threads[i], backwards[i])
        np.testing.assert_array_equal(in_workers[i], backwards[i])
    assert len(pickle.dumps(pool_scenes(discs[1], length=3))) < 1000
    other = pool_scenes(discs[1], "pretrain", seed=6, length=12)
    assert not np.array_equal(other[0]["image"], backwards[0])


def save(file, **changes):
    """A file of cut-outs as another program may write it, with pictures that are none."""
    with np.load(file, allow_pickle=False) as content:
        np.savez(file, **(dict(content) | table() | changes))


def test_an_opaque_record_in_a_file_leaves_the_scene_without_it(discs):
    _, file, _ = discs
    save(file, rows=[0, OPAQUE, NO_ALPHA], classes=[0, 1, 2], split=[0, 0, 0])
    source = pool_scenes(file, "train", length=20)
    masks = [source[i]["mask"] for i in range(20)]
    assert set(np.unique(masks)) == {0, 1}
    save(file, rows=[BROKEN], classes=[0], split=[0])
    with pytest.raises(CorruptSample, match="truncated"):
        pool_scenes(file, "train")[0]


def test_an_index_and_classes_leave_out_more(discs, tmp_path):
    folder, file, _ = discs
    index = tmp_path / "index"
    index.mkdir()
    causes = np.uint8(np.arange(34) < 12)
    np.save(index / "causes.npy", causes)
    digest = pool.Pool(folder).digest
    content = {"causes": ["kept", "small"], "pool": digest, "digest": "d"}
    (index / pool.INDEX).write_text(json.dumps(content))
    bank = PoolCutOuts(file, "train", index=index, classes=NAMES[2:])
    assert bank.rows.tolist() == [20, 29] and bank.groups == NAMES[2:] and not bank.group.any()
    counts = write_cut_outs(tmp_path / "few.npz", folder, **table(), index=index)
    assert counts["left out by the index"] == 12 and counts["cut-outs"] == 18
    whole = pool_scenes(file, "train").fingerprint()
    assert pool_scenes(file, "train", index=index).fingerprint() != whole


def test_a_moved_pool_and_file_give_the_same(discs, tmp_path):
    folder, file, _ = discs
    before = pool_scenes(file, "train", length=3)
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"pool\.json: missing"):
        pool_scenes(file, "train")
    after = pool_scenes(file, "train", length=3, pool=moved)
    assert after.fingerprint() == before.fingerprint()
    save(file, folder="elsewhere")
    assert len(PoolCutOuts(file, "train")) == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": np.arange(34) + 1}, "rows: 1 to 34; give 0 to 33"),
        ({"rows": np.zeros(34, int)}, "twice"),
        ({"classes": np.full(34, 3)}, "classes: 3 to 3; give 0 to 2"),
        ({"classes": np.full(34, -1)}, "classes: -1"),
        ({"classes": np.zeros(33, int)}, "33 entries for 34 rows"),
        ({"split": np.full(34, 9)}, "split: 9 to 9"),
        ({"classes": np.zeros(34)}, "classes: float64"),
        ({"names": ["a", "a", "b"]}, "names: a class is there twice"),
        ({"names": []}, "names"),
        ({"digest": "other"}, "another pool"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(discs, changes, said):
    folder, file, _ = discs
    save(file, **changes)
    with pytest.raises(UserError, match=said) as caught:
        pool_scenes(file, "train")
    assert "\n" not in str(caught.value)
    if "digest" not in changes:
        with pytest.raises(UserError, match=said):
            write_cut_outs(file, folder, **table(**changes))


def test_nonsense_is_refused(discs, tmp_path):
    folder, file, _ = discs
    for arguments, said in (
        ({"split": "val"}, "split"),
        ({"family": "depth"}, "family"),
        ({"size": 2}, "size"),
        ({"classes": ["grey thing"]}, "no 'grey thing'"),
        ({"classes": ["red thing"] * 2}, "twice"),
        ({"classes": []}, "no cut-outs"),
    ):
        with pytest.raises(UserError, match=said):
            pool_scenes(file, **arguments)
    with pytest.raises(UserError, match="missing"):
        pool_scenes(tmp_path / "none.npz")
    with pytest.raises(UserError, match="no cut-outs among 1"):
        one = {"rows": [OPAQUE], "classes": [0], "split": [0]}
        write_cut_outs(file, folder, **table(**one))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="no file of cut-outs"):
        pool_scenes(file)
    np.savez(file, **table(names=np.array([{"a": 1}], object)), folder="x", digest="y")
    with pytest.raises(UserError, match="no file of cut-outs"):
        pool_scenes(file)


def test_a_mask_holds_no_more_classes(tmp_path):
    folder = make_pool(tmp_path / "discs")
    names = [f"thing {i}" for i in range(255)]
    write_cut_outs(tmp_path / "many.npz", folder, **table(names=names))
    with pytest.raises(UserError, match="at most 254"):
        pool_scenes(tmp_path / "many.npz", "train")
    pool_scenes(tmp_path / "many.npz", "train", "pairs")


def test_the_solid_part_decides():
    half = np.zeros((10, 10, 4), np.uint8)
    half[:5, :, 3] = 255
    assert cutouts.fault_of(half) is None
    assert cutouts.fault_of(half[:5]) == "opaque" and cutouts.fault_of(half[5:]) == "empty"
    assert cutouts.fault_of(half[:, :, :3]) == "opaque"


def test_boxes_alone(discs):
    _, file, _ = discs
    made = pool_scenes(file, "train", seed=2, size=64, length=20, crowd=True, boxed=True)
    plain = pool_scenes(file, "train", "detection", seed=2, size=64, length=20, crowd=True)
    assert made.family == "detection" and made.classes == plain.classes[1:] == NAMES
    for i in range(20):
        one, two = check(made[i], "made", 3), plain[i]
        shown = ~one["box_ignore"]
        np.testing.assert_array_equal(one["boxes"][shown], two["boxes"])
        np.testing.assert_array_equal(one["box_labels"][shown] + 1, two["box_labels"])
        np.testing.assert_array_equal(made.objects(i)["ignore"], one["box_ignore"])
    assert made.fingerprint() != plain.fingerprint() and made.cutouts.pool
