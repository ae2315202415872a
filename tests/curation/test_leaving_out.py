"""Duplicates, test pictures, held-out concepts and splits: what leaves a pool, and what must not."""

import json
import sys

import numpy as np
import pytest
from icon_package import spec, write_package, write_wordnet

from intern_jax.core.config import UserError
from intern_jax.curation.concepts import words
from intern_jax.curation.decontaminate import decontaminate, matches
from intern_jax.curation.duplicates import drop_duplicates, leave_out
from intern_jax.curation.embedding import assign, close_pairs, kmeans
from intern_jax.curation.pack import pack
from intern_jax.curation.pictures import near
from intern_jax.curation.pipeline import run
from intern_jax.curation.running import engine
from intern_jax.curation.splits import SPLITS, split_pool
from intern_jax.data.embedded import packs
from intern_jax.data.sources.cut import PoolRows, open_ring
from intern_jax.data.sources.cutouts import open_scenes
from intern_jax.data.sources.iconify import Iconify
from intern_jax.data.sources.pool import PoolSource
from tools.bench import planted

LOCAL = engine.Local(1)
NAMES = ["cat", "cat-face", "tabby-run", "car", "arrow", "dog", "star", "moon", "tree", "sun"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(package, pool, wordnet): three makers draw other pictures of the same names."""
    folder = tmp_path_factory.mktemp("world")
    names = {"ink": NAMES, "paint": NAMES, "pen": NAMES}
    package = write_package(folder / "package", names)
    # The pen's cat is the ink's, in another colour.
    pen, ink = (package / "json" / f"{name}.json" for name in ("pen", "ink"))
    content = json.loads(pen.read_text())
    content["icons"]["cat"] = json.loads(ink.read_text())["icons"]["cat"]
    pen.write_text(json.dumps(content))
    pool = pack(spec(package), folder / "pool", per_part=8, runner=LOCAL)
    return package, pool, str(write_wordnet(folder / "wordnet"))


def as_config(steps: list[dict]) -> dict:
    """A config of steps that are given in order."""
    described = {s["name"]: {k: v for k, v in s.items() if k != "name"} for s in steps}
    return {"steps": [s["name"] for s in steps], **described}


def kept(index) -> set[str]:
    return set(PoolSource(index.folder).keys)


def test_a_recoloured_copy_is_left_out_and_nothing_else(world, tmp_path):
    _, pool, _ = world
    index = drop_duplicates(pool.folder, tmp_path / "index", prefer=("pen",), runner=LOCAL)
    assert {pool.key(i) for i in range(len(pool))} - kept(index) == {"ink:cat"}
    assert index.content["counts"]["near duplicate"] == 1
    pairs = np.load(tmp_path / "index" / "chosen-00000.matches.npy")
    assert [(pool.key(a), pool.key(b)) for a, b in pairs] == [("ink:cat", "pen:cat")]


def test_who_stays_is_a_rule(world, tmp_path):
    _, pool, _ = world
    index = drop_duplicates(pool.folder, tmp_path / "index", runner=LOCAL)
    # Equal pixels and texts: the earlier record stays.
    assert {pool.key(i) for i in range(len(pool))} - kept(index) == {"pen:cat"}


def test_each_that_is_left_out_has_a_duplicate_that_stays():
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(2, 40))
        pairs = rng.integers(0, count, (60, 2))
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
        scores, kinds = rng.integers(0, 4, count), rng.integers(1, 4, len(pairs)).astype(np.uint8)
        causes, matches = leave_out(pairs, kinds, scores)
        order = sorted(range(count), key=lambda r: (-scores[r], r))
        stays: list[int] = []
        for row in order:
            mine = [
                k
                for (a, b), k in zip(pairs, kinds, strict=True)
                if row in (a, b) and ({a, b} - {row}) & set(stays)
            ]
            assert causes[row] == (min(mine) if mine else 0)
            if not mine:
                stays.append(row)
        for out, stay in matches:
            assert causes[out] and not causes[stay]
            assert sorted((out, stay)) in pairs.tolist()


def test_a_chain_of_likeness_loses_only_what_has_a_twin():
    # 0 is like 1, 1 like 2, 2 like 3: 0 and 2 stay.
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    causes, matches = leave_out(pairs, np.ones(3, np.uint8), np.zeros(4))
    assert causes.tolist() == [0, 1, 0, 1] and matches.tolist() == [[1, 0], [3, 2]]


def test_test_pictures_are_found_and_listed(world, tmp_path):
    package, pool, _ = world
    rows = {"test": spec(package, sets=["pen"], name="test")}
    index = decontaminate(pool.folder, tmp_path / "index", rows=rows, runner=LOCAL)
    gone = {pool.key(i) for i in range(len(pool))} - kept(index)
    assert gone == {f"pen:{name}" for name in NAMES} | {"ink:cat"}
    why = [json.loads(line) for line in (tmp_path / "index" / "why.jsonl").read_text().splitlines()]
    assert {entry["key"]: entry["test"] for entry in why}["ink:cat"] == "test/pen:cat"
    source = PoolSource(index.folder)
    assert source.decontaminated()["test"] == {
        "digest": Iconify(**{k: v for k, v in rows["test"].items() if k != "fn"}).fingerprint(),
        "pictures": len(NAMES),
        "split": None,
    }
    assert source.unseen() == []


@pytest.mark.parametrize("change", planted.CHANGES)
def test_changed_test_pictures_are_found(change):
    emoji = packs.pack("emoji")
    chosen = np.random.default_rng(0).choice(len(emoji), 60, replace=False)
    rng = np.random.default_rng(1)
    tests = [emoji.array(int(i)) for i in chosen]
    copies = [planted.CHANGES[change](picture, rng) for picture in tests]
    described = [
        np.array([near.describe(p) for p in pictures], near.DESCRIPTOR)
        for pictures in (tests, copies)
    ]
    found = matches(described[1], described[0], near.bands(described[0]), mirrored=True)
    assert len(found) >= (57 if change in ("reencoded", "resized") else 54)


def test_after_concepts_are_held_out_nothing_names_them(world, tmp_path):
    _, pool, wordnet = world
    index = decontaminate(
        pool.folder, tmp_path / "index", concepts=("cat",), wordnet=wordnet, runner=LOCAL
    )
    source = PoolSource(index.folder)
    assert source.unseen() == ["cat"] and len(source) == 3 * (len(NAMES) - 3)
    for i in range(len(pool.counts)):
        for row, entry in enumerate(pool.words(i), start=int(pool.begins[i])):
            if index.causes[row] == 0:
                said = [*entry["texts"], entry["name"], *entry["categories"]]
                assert not {"cat", "tabby"} & {word for text in said for word in words(text)}


def test_without_a_dictionary_only_the_name_itself_is_held_out(world, tmp_path):
    _, pool, _ = world
    index = decontaminate(pool.folder, tmp_path / "index", concepts=("cat",), runner=LOCAL)
    assert {"ink:tabby-run", "paint:tabby-run"} <= kept(index) and "ink:cat-face" not in kept(index)


def test_two_strengths_add_up_over_indexes(world, tmp_path):
    package, pool, _ = world
    first = decontaminate(pool.folder, tmp_path / "a", concepts=("dog",), runner=LOCAL)
    rows = {"test": spec(package, sets=["pen"])}
    second = decontaminate(pool.folder, tmp_path / "b", index=first.folder, rows=rows, runner=LOCAL)
    assert list(second.content["unseen"]) == ["dog"] and list(second.content["decontaminated"]) == [
        "test"
    ]
    assert second.content["counts"]["held-out concept"] == 3


def test_splits_hold_out_makers_and_concepts(world, tmp_path):
    _, pool, wordnet = world
    index = split_pool(
        pool.folder,
        tmp_path / "index",
        wordnet=wordnet,
        maker_share=0.4,
        concepts=1,
        min_records=2,
        min_makers=2,
        most_named=9.0,
        test_share=0.5,
        min_test=1,
        min_train=0,
    )
    numbers = np.load(index.folder / "splits.npy")
    held_makers = set(index.content["held_out_makers"])
    assert len(held_makers) == 1 and index.content["held_out"] in (["cat"], ["car"])
    held = index.content["held_out"][0]
    for part in range(len(pool.counts)):
        for row, entry in enumerate(pool.words(part), start=int(pool.begins[part])):
            expected = (entry["author"] in held_makers) + 2 * (entry["texts"][0] == held)
            assert numbers[row] == expected
    sources = [PoolSource(index.folder, split=name) for name in SPLITS]
    assert [len(s) for s in sources] == [18, 9, 2, 1]
    with pytest.raises(UserError, match="no 'other'; known: pretrain"):
        PoolSource(index.folder, split="other")
    made = {ring: facts for ring, facts in index.content["rows"].items() if facts["classes"]}
    for ring, facts in made.items():
        for side in ("train", "test"):
            row = PoolRows(index.folder / "rows" / f"{ring}.npz", side)
            assert len(row) == facts[side] == len(row.labels)
            for i in range(len(row)):
                sample = row[i]
                assert (
                    sample["texts"] == [row.classes[sample["label"]]]
                    and sample["key"] == row.keys[i]
                )


def test_a_pipeline_uses_what_is_finished_and_makes_the_rest_anew(world, tmp_path):
    package, _, _ = world
    curation = "intern_jax.curation"
    steps = [
        {"name": "pack", "fn": f"{curation}.pack:pack", "source": spec(package), "per_part": 8},
        {"name": "filter", "fn": f"{curation}.filters:filter_pool", "max_words": 2},
        {"name": "dedup", "fn": f"{curation}.duplicates:drop_duplicates"},
    ]
    first = run(as_config(steps), tmp_path, LOCAL)["steps"]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*") if p.suffix in (".npy", ".json")}
    steps[1]["max_words"] = 1
    second = run(as_config(steps), tmp_path, LOCAL)["steps"]
    assert first[0]["folder"] == second[0]["folder"]
    assert first[1]["folder"] != second[1]["folder"] and first[2]["folder"] != second[2]["folder"]
    same = [p for p in times if p.parent.name == first[0]["folder"] and p.name.startswith("part-")]
    assert same and all(p.stat().st_mtime_ns == times[p] for p in same)
    assert second[2]["kept"] < first[2]["kept"]


FILTER = "intern_jax.curation.filters:filter_pool"


@pytest.mark.parametrize(
    "config, said",
    [
        ({}, "config.steps: empty"),
        ({"steps": ["a"]}, "config.a.fn: missing"),
        ({"steps": ["a", "a"], "a": {"fn": FILTER}}, r"config.steps\[0\]: 'a'; give each step"),
        ({"steps": ["a"], "a": {"fn": FILTER, "minimum": 1}}, "config.a.minimum: unknown"),
        ({"steps": ["a"], "a": {"fn": FILTER}, "b": {}}, "config.b: no such step"),
        ({"steps": ["a"], "a": {"fn": FILTER}}, "config.a: needs a pool"),
    ],
)
def test_mistakes_in_a_config_are_one_line(tmp_path, config, said):
    with pytest.raises(UserError, match=said) as told:
        run(config, tmp_path, LOCAL)
    assert "\n" not in str(told.value)


def test_an_optional_row_without_data_is_said_and_left_out(world, tmp_path, caplog):
    package, pool, _ = world
    rows = {"here": spec(package, sets=["pen"]), "gone": spec(tmp_path / "nothing")}
    index = decontaminate(pool.folder, tmp_path / "index", optional=rows, runner=LOCAL)
    assert list(index.content["decontaminated"]) == ["here"]
    assert "gone: not compared, its data is missing" in caplog.text


def test_kmeans_finds_separated_groups_and_close_pairs_are_all_found():
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8, dtype=np.float32)
    vectors = np.repeat(centres, 20, axis=0) + rng.normal(0, 0.05, (60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = kmeans(vectors, vectors[[0, 20, 40]])
    np.testing.assert_allclose(found @ centres.T, np.eye(3), atol=0.1)
    cosine = vectors @ vectors.T
    expected = [(i, j) for i in range(60) for j in range(i + 1, 60) if cosine[i, j] > 0.98]
    assert expected and close_pairs(vectors, 0.02).tolist() == [list(p) for p in expected]


def test_a_models_features_decide_what_has_one_meaning(world, tmp_path):
    _, pool, _ = world
    index = drop_duplicates(
        pool.folder,
        tmp_path / "index",
        exact=False,
        near=False,
        semantic="embedded_tiny",
        epsilon=1e-3,
        clusters=2,
        runner=LOCAL,
    )
    features = [np.load(p) for p in sorted((tmp_path / "index").glob("embed-*.features.npy"))]
    unit = np.concatenate(features)
    assert unit.shape[0] == len(pool)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    pairs = np.concatenate([np.load(p) for p in (tmp_path / "index").glob("semantic-*.pairs.npy")])
    cluster = assign(unit, np.load(tmp_path / "index" / "centroids-00000.centroids.npy"))
    expected = {
        (i, j)
        for i in range(len(unit))
        for j in range(i + 1, len(unit))
        if cluster[i] == cluster[j] and unit[i] @ unit[j] > 1 - 1e-3
    }
    assert expected and {(int(a), int(b)) for a, b in pairs} == expected
    assert index.content["counts"]["semantic duplicate"] > 0


def test_what_a_split_was_judged_for_is_said_of_it_alone(world, tmp_path):
    package, pool, wordnet = world
    first = split_pool(pool.folder, tmp_path / "a", wordnet=wordnet, concepts=0, maker_share=0.4)
    index = decontaminate(
        pool.folder,
        tmp_path / "b",
        index=first.folder,
        rows={"test": spec(package, sets=["pen"])},
        concepts=("cat",),
        split="pretrain",
        runner=LOCAL,
    )
    judged = PoolSource(index.folder, split="pretrain")
    assert judged.unseen() == ["cat"] and list(judged.decontaminated()) == ["test"]
    assert all("cat" not in " ".join(judged[i]["texts"]) for i in range(len(judged)))
    for source in (PoolSource(index.folder), PoolSource(index.folder, split="new_maker")):
        assert source.unseen() == [] and source.decontaminated() == {}


def test_other_splits_give_another_digest_to_what_follows(world, tmp_path):
    _, pool, wordnet = world
    prints = set()
    for seed in range(3):
        a = split_pool(
            pool.folder,
            tmp_path / f"a{seed}",
            wordnet=wordnet,
            concepts=0,
            maker_share=0.4,
            seed=seed,
        )
        b = decontaminate(
            pool.folder, tmp_path / f"b{seed}", index=a.folder, concepts=("dog",), runner=LOCAL
        )
        held = tuple(a.content["held_out_makers"])
        prints.add((held, b.digest, PoolSource(b.folder, split="pretrain").fingerprint()))
    assert len({held for held, *_ in prints}) == len({d for _, d, _ in prints}) > 1
    assert len({f for *_, f in prints}) > 1


def test_a_workdir_may_move(world, tmp_path):
    package, _, wordnet = world
    curation = "intern_jax.curation"
    steps = [
        {"name": "pack", "fn": f"{curation}.pack:pack", "source": spec(package)},
        {
            "name": "split",
            "fn": f"{curation}.splits:split_pool",
            "wordnet": wordnet,
            "maker_share": 0.4,
            "concepts": 1,
            "min_records": 2,
            "min_makers": 2,
            "most_named": 9.0,
            "min_test": 1,
            "min_train": 0,
        },
        {
            "name": "clean",
            "fn": f"{curation}.decontaminate:decontaminate",
            "held_out": True,
            "rings": True,
            "wordnet": wordnet,
            "split": "pretrain",
        },
    ]
    run(as_config(steps), tmp_path / "work", LOCAL)
    (tmp_path / "work").rename(tmp_path / "moved")
    made = json.loads((tmp_path / "moved" / "pipeline.json").read_text())["steps"]
    source = PoolSource(tmp_path / "moved" / made[2]["folder"], split="pretrain")
    assert source[0]["key"] == source.keys[0]
    for ring, facts in made[1]["rows"].items():
        if facts["classes"]:
            row = open_ring(ring, "test", tmp_path / "moved")
            assert row[0]["key"] == row.keys[0]
            assert source.decontaminated()[f"wide_{ring}"]["digest"] == row.fingerprint()
            assert set(row.held_out) <= set(source.unseen())
    scenes = open_scenes("test", tmp_path / "moved", length=3)
    assert scenes[0]["mask"].shape == (64, 64)
    assert open_scenes("pretrain", tmp_path / "moved", length=3).cutouts.unseen()


class Photographs:
    """Opaque pictures with classes; one of them is blank, one has a name that is no text."""

    name, family, classes, labels = "photographs", "classification", ("cat", "dog"), None

    def __init__(self):
        self.keys = ["blank", "a", "b", "odd\udcff"]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> dict:
        noise = (
            np.random.default_rng(i).integers(0, 255, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        )
        image = np.full((48, 48, 3), 250, np.uint8) if self.keys[i] == "blank" else noise
        return {"image": image, "label": i % 2, "texts": ["fluffy pet"], "key": self.keys[i]}


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "photographs_source", sys.modules[__name__])
    source = {"fn": "photographs_source:Photographs"}
    return source, pack(source, tmp_path / "photographs", runner=LOCAL)


def test_a_class_name_names_a_record_too(photographs, tmp_path):
    _, pool = photographs
    assert pool.manifest["counts"] == {"read": 4, "records": 3, "bad key": 1}
    index = decontaminate(pool.folder, tmp_path / "index", concepts=("cats",), runner=LOCAL)
    assert kept(index) == {"a"}


def test_a_blank_test_picture_is_found_by_its_pixels(photographs, tmp_path):
    source, pool = photographs
    index = decontaminate(pool.folder, tmp_path / "index", rows={"test": source}, runner=LOCAL)
    assert kept(index) == set() and index.content["counts"]["test picture"] == 3


def test_a_pool_without_cut_outs_can_be_split(photographs, world, tmp_path):
    _, pool = photographs
    index = split_pool(pool.folder, tmp_path / "index", wordnet=world[2])
    assert len(index.kept) == 3 and not (tmp_path / "index" / "scenes.npz").exists()
