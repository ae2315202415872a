"""Packing, reading and filtering pools: everything that a record is, and why one is left out."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from icon_package import spec, write_package

from intern_jax.core.config import UserError
from intern_jax.curation.filters import filter_pool
from intern_jax.curation.pack import pack
from intern_jax.curation.running import engine
from intern_jax.data.batches.stream import Stream
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.iconify import Iconify
from intern_jax.data.sources.pool import Index, Pool, PoolSource, decode, encode


class Labelled:
    """A dense source: pictures of many sizes with boxes, masks and depth; every fifth cannot be read."""

    name, family, classes = "labelled", "segmentation", ("ground", "thing")

    def __init__(self, count: int = 12):
        self.keys = [f"picture {i}" for i in range(count)]
        self.labels = None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> dict:
        if i % 5 == 4:
            raise CorruptSample(self.keys[i], "truncated picture")
        rng = np.random.default_rng(i)
        height, width = 60 + i, 80
        mask = np.zeros((height, width), np.uint8)
        mask[10:30, 20:60] = 1
        return {
            "image": rng.integers(0, 255, (height, width, 3), np.uint8),
            "mask": mask,
            "depth": np.full((height, width), 2.5, np.float32),
            "depth_valid": mask > 0,
            "boxes": np.float32([[20, 10, 60, 30]]),
            "box_ignore": np.asarray([True]),
            "box_labels": np.int32([1]),
            "key": self.keys[i],
        }


LABELLED = {"fn": f"{__name__}:Labelled"}


@pytest.fixture(scope="module")
def icons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    package = write_package(folder / "package")
    pool = pack(spec(package), folder / "pool", per_part=3, runner=engine.Local(1))
    return package, pool


@pytest.fixture
def labelled(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "labelled_source", sys.modules[__name__])
    return {"fn": "labelled_source:Labelled"}


def digests(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_pool_gives_what_its_source_gave(icons):
    package, pool = icons
    source, packed = Iconify(package, side=32), PoolSource(pool.folder)
    assert len(packed) == len(source) and list(packed.keys) == source.keys
    for i in range(len(source)):
        given, found = source[i], packed[i]
        assert found["key"] == given["key"] and found["texts"] == given["texts"]
        # Lossy colours, exact alpha.
        np.testing.assert_array_equal(found["image"][..., 3], given["image"][..., 3])
        solid = given["image"][..., 3] == 255
        change = np.abs(found["image"][solid].astype(int) - given["image"][solid])
        assert change.mean() < 12
    assert packed.family == "pairs" and packed.labels is None


def test_a_pool_holds_words_licences_and_facts(icons):
    _, pool = icons
    words = [w for part in range(len(pool.counts)) for w in pool.words(part)]
    assert pool.counts == [3, 3, 2]
    assert {w["licence"] for w in words} == {"MIT", "CC0-1.0"}
    assert pool.manifest["licences"] == {"CC0-1.0": 4, "MIT": 4}
    assert words[0]["author"] == "Ann" and words[0]["name"] == "arrow-left"
    assert words[5]["categories"] == ["Animals", "Test"]
    facts = pool.column(0, "facts")
    assert facts["width"].tolist() == facts["height"].tolist() == [32] * 3


def test_arrays_follow_a_smaller_picture(tmp_path, labelled):
    pool = pack(labelled, tmp_path / "pool", side=40, per_part=5, runner=engine.Local(1))
    assert pool.manifest["counts"] == {"read": 12, "records": 10, "truncated picture": 2}
    faults = [json.loads(line) for line in pool.path(0, "faults.jsonl").read_text().splitlines()]
    assert [f["where"] for f in faults] == ["picture 4"]
    sample = PoolSource(pool.folder)[0]
    assert sample["image"].shape == (30, 40, 3)
    np.testing.assert_allclose(sample["boxes"], [[10, 5, 30, 15]], atol=0.2)
    assert sample["mask"].shape == sample["depth"].shape == sample["depth_valid"].shape == (30, 40)
    assert set(np.unique(sample["mask"])) == {0, 1} and (sample["depth"] == 2.5).all()
    # 20 x 40 of 60 x 80 pixels.
    assert sample["mask"].mean() == pytest.approx(1 / 6, abs=0.02)
    np.testing.assert_array_equal(sample["depth_valid"], sample["mask"] == 1)


def test_a_record_keeps_every_field():
    sample = Labelled()[0] | {"texts": ["a", "b"], "label": np.int64(3)}
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(sample["image"]).save(file, "PNG")
    found = decode(encode(sample, [file.getvalue(), file.getvalue()]))
    assert found["texts"] == ["a", "b"] and found["label"] == 3 and len(found["views"]) == 1
    for name in ("image", "mask", "depth", "depth_valid", "boxes", "box_labels", "box_ignore"):
        np.testing.assert_array_equal(found[name], sample[name])
        assert found[name].dtype == sample[name].dtype


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x81\xa3key\xa1a", b"\x00" * 50])
def test_a_damaged_record_is_a_corrupt_sample(damage):
    with pytest.raises(CorruptSample, match=r"unreadable record|empty file"):
        decode(damage)


def test_a_stopped_run_ends_with_the_same_files(icons, tmp_path):
    package, pool = icons
    again = tmp_path / "pool"
    made = pack(spec(package), again, per_part=3, runner=engine.Local(1))
    expected = digests(pool.folder)
    assert digests(again) == expected
    for name in ("part-00001.json", "part-00002.records.array_record", "pool.json"):
        (again / name).unlink()
    assert pack(spec(package), again, per_part=3, runner=engine.Local(1)).digest == made.digest
    assert digests(again) == expected


def test_another_source_in_the_same_folder_is_refused(icons):
    package, pool = icons
    with pytest.raises(UserError, match="other settings or another source; give a new folder"):
        pack(spec(package, sets=["ink"]), pool.folder, per_part=3)
    with pytest.raises(UserError, match="other settings or another source; give a new folder"):
        pack(spec(package), pool.folder, per_part=4)


def test_causes_are_the_first_rule_that_is_broken(icons, tmp_path):
    _, pool = icons
    (tmp_path / "list.txt").write_text("paint:dog\n")
    (tmp_path / "scores.csv").write_text(
        "key,score\n" + "".join(f"{pool.key(i)},{i / 10}\n" for i in range(len(pool)))
    )
    index = filter_pool(
        pool.folder,
        tmp_path / "index",
        licences=("CC0-1.0",),
        drop=str(tmp_path / "list.txt"),
        scores=str(tmp_path / "scores.csv"),
        min_score=0.45,
        min_letters=4,
        runner=engine.Local(1),
    )
    causes = {pool.key(i): index.names[c] for i, c in enumerate(index.causes)}
    assert causes == {
        "ink:arrow-left": "licence",
        "ink:cat": "licence",
        "ink:cat-outline": "licence",
        "ink:home-24": "licence",
        "paint:car": "score",
        "paint:cat": "caption",
        "paint:dog": "listed",
        "paint:tabby": "kept",
    }
    kept = PoolSource(index.folder)
    assert list(kept.keys) == ["paint:tabby"] and kept[0]["key"] == "paint:tabby"
    assert pickle.loads(pickle.dumps(kept))[0]["key"] == "paint:tabby"


def test_a_list_that_changed_is_read_again(icons, tmp_path):
    _, pool = icons
    listed = tmp_path / "list.txt"
    for number, key in enumerate(("paint:dog", "paint:car")):
        listed.write_text(f"{key}\n")
        index = filter_pool(
            pool.folder, tmp_path / f"{number}", drop=str(listed), runner=engine.Local(1)
        )
        assert {pool.key(i) for i in np.flatnonzero(index.causes)} == {key}


def test_a_stage_reads_a_pool_by_its_index(icons, tmp_path):
    _, pool = icons
    index = filter_pool(pool.folder, tmp_path / "index", licences=("MIT",), runner=engine.Local(1))
    spec = {"fn": "intern_jax.data.sources.pool:open_pool", "pool": str(index.folder)}
    views = {
        "fn": "intern_jax.data.make.pairs:PairViews",
        "size": 16,
        "tokenizer": "embedded",
        "context": 8,
    }
    groups = {"pairs": {"sources": [spec], "batch_size": 8, "transform": views}}
    with Stream(groups, rows=(0, 1)) as stream:
        batch = stream.batch_at(0)["pairs"]
    assert batch["image1"].shape == (8, 16, 16, 3) and batch["tokens1"].shape == (8, 8)
    assert len(stream.sources["pairs"][0]) == 4


def test_an_index_adds_to_the_one_before(icons, tmp_path):
    _, pool = icons
    first = filter_pool(pool.folder, tmp_path / "a", licences=("MIT",), runner=engine.Local(1))
    second = filter_pool(
        pool.folder, tmp_path / "b", index=first.folder, max_words=1, runner=engine.Local(1)
    )
    assert second.content["counts"]["licence"] == 4 and second.content["counts"]["caption"] == 1
    assert second.content["counts"]["kept"] == 3
    assert [made["step"] for made in second.content["made"]] == ["filter", "filter"]
    assert PoolSource(second.folder).fingerprint() != PoolSource(first.folder).fingerprint()


def test_an_index_of_another_pool_is_refused(icons, tmp_path, labelled):
    _, pool = icons
    index = filter_pool(pool.folder, tmp_path / "a", runner=engine.Local(1))
    other = pack(labelled, tmp_path / "other", runner=engine.Local(1))
    with pytest.raises(UserError, match="an index of another pool"):
        PoolSource(other.folder, index.folder)
    with pytest.raises(UserError, match="an index of another pool"):
        filter_pool(other.folder, tmp_path / "b", index=index.folder)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"without": ("ugly",)}, "without: no issue 'ugly'"),
        ({"min_score": 0.5}, "give the file and min_score together"),
        ({"scores": "missing.csv", "min_score": 0.5}, "missing.csv: cannot be read"),
        ({"drop": "missing.txt"}, "missing.txt: missing; give one key per line"),
    ],
)
def test_mistakes_are_one_line(icons, tmp_path, settings, said):
    _, pool = icons
    with pytest.raises(UserError, match=said) as told:
        filter_pool(pool.folder, tmp_path / "a", runner=engine.Local(1), **settings)
    assert "\n" not in str(told.value)


def test_damaged_pools_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"pool.json: missing; make a pool"):
        Pool(tmp_path)
    (tmp_path / "pool.json").write_text("{")
    with pytest.raises(UserError, match=r"pool.json: cannot be read"):
        Pool(tmp_path)
    with pytest.raises(UserError, match=r"index.json: missing; make an index"):
        Index(tmp_path)
