"""The embedded data: what the splits promise, decoding, bounds, near duplicates, size."""

import json
import pickle

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.embedded import packs, tables
from intern_jax.data.make import text as tokenizer
from intern_jax.data.schema.sample import check

SPLIT = [(n, {"split": s}) for n in embedded.BENCHMARK for s in ("train", "test")]
EVERY = [(n, {}) for n in embedded.PRETRAINING] + SPLIT


def emoji_key(key):
    """(style, concept) of an emoji's key."""
    return tuple(key.split("/")[1:3])


@pytest.mark.parametrize("name,kwargs", EVERY)
def test_samples_hold_the_schema(name, kwargs):
    source = embedded.load(name, **kwargs)
    assert len(source) == len(source.keys) == len(set(source.keys)) > 100
    picks = np.linspace(0, len(source) - 1, 12).astype(int)
    for i in picks.tolist():
        sample = source[i]
        check(sample, name, len(source.classes) or None)
        assert sample["key"] == source.keys[i]
        if source.labels is not None:
            assert sample["label"] == source.labels[i]
        again = source[i]
        for field, value in sample.items():
            np.testing.assert_equal(again[field], value)


@pytest.mark.parametrize("name,kwargs", EVERY)
def test_sources_can_be_pickled(name, kwargs):
    source = embedded.load(name, **kwargs)
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other[3]["image"], source[3]["image"])


@pytest.mark.parametrize("name", embedded.BENCHMARK)
def test_train_and_test_agree_on_classes_and_share_nothing(name):
    train, test = (embedded.load(name, split=s) for s in ("train", "test"))
    assert train.classes == test.classes
    assert not set(train.keys) & set(test.keys)
    assert len(test) >= 150
    if train.labels is not None:
        assert train.labels.dtype == np.int32
        for source in (train, test):
            assert set(source.labels.tolist()) == set(range(len(source.classes)))


def test_emoji_concepts_and_styles_do_not_leak():
    index = packs.pack("emoji").index
    split = {c: facts["split"] for c, facts in index["concepts"].items()}
    groups = embedded.load("emoji_groups")
    assert len(groups.classes) >= 64 and len(embedded.load("emoji_pairs")) > 1000
    pool = {emoji_key(k) for k in groups.keys}
    assert {split[c] for _, c in pool} == {"pool"}
    assert {s for s, _ in pool} == set(index["pool_styles"])
    pairs = embedded.load("emoji_pairs")
    rows = [r for members in pairs.members for r in members]
    assert {index["style"][r] for r in rows} == set(index["pool_styles"])
    assert {split[index["concept"][r]] for r in rows} == {"pool"}
    style = {s: embedded.load("emoji_style", split=s) for s in ("train", "test")}
    concept = {s: embedded.load("emoji_concept", split=s) for s in ("train", "test")}
    for source in style.values():
        assert {emoji_key(k)[0] for k in source.keys} == {index["unseen_style"]}
    assert {split[emoji_key(k)[1]] for k in style["train"].keys} == {"pool"}
    assert {split[emoji_key(k)[1]] for k in style["test"].keys} == {"train", "test"}
    for name, source in concept.items():
        assert {split[emoji_key(k)[1]] for k in source.keys} == {name}
        assert {emoji_key(k)[0] for k in source.keys} == set(index["pool_styles"])
    held = sum(s != "pool" for s in split.values()) / len(split)
    assert 0.17 < held < 0.21


def test_scene_sprites_do_not_leak():
    index = packs.pack("emoji").index
    split = {c: facts["split"] for c, facts in index["concepts"].items()}

    def concepts(source):
        rows = tables.emoji_rows(*source.cutouts.bank)
        return {index["concept"][r] for r in rows}, {index["style"][r] for r in rows}

    for name in ("scene_pairs", "sprite_scenes", "crowd_scenes"):
        seen, styles = concepts(embedded.load(name))
        assert {split[c] for c in seen} == {"pool"} and index["unseen_style"] not in styles
    train, styles = concepts(embedded.load("sprites_seg", split="train"))
    test, _ = concepts(embedded.load("sprites_seg", split="test"))
    assert not train & test and styles == {index["unseen_style"]}


def test_clipart_leaves_and_fashion_classes_are_disjoint():
    leaf = {s: embedded.load("clipart_leaf", split=s) for s in ("train", "test")}
    pool = embedded.load("clipart_pool")
    assert not set(pool.classes) & set(leaf["train"].classes)
    seen = set(pool.keys) | set(embedded.load("clipart_pairs").keys)
    assert not seen & (set(leaf["train"].keys) | set(leaf["test"].keys))
    fashion = embedded.load("fashion", split="test")
    assert not set(embedded.load("fashion_pool").classes) & set(fashion.classes)
    assert all(k.startswith("fashion/t10k/") for k in fashion.keys) and len(fashion) > 4900


def test_furniture_models_do_not_leak():
    index = packs.pack("rooms").index
    used = {s: set() for s in ("pool", "train", "test")}
    for split, models in zip(index["split"], index["models"], strict=True):
        used[split] |= set(models)
    assert not (used["pool"] & used["train"] or used["pool"] & used["test"])
    assert not used["train"] & used["test"]
    assert all(index["classes"][3:] and models for models in used.values())
    icons = packs.pack("furniture").index
    names = {
        s: {n for n, t in zip(icons["name"], icons["split"], strict=True) if t == s}
        for s in ("train", "test")
    }
    assert not names["train"] & names["test"]
    test_keys = {
        k.removeprefix("furniture/")
        for k, t in zip(icons["key"], icons["split"], strict=True)
        if t == "test"
    }
    assert not test_keys & used["pool"]


def test_rooms_are_metric_and_every_class_is_seen():
    for split in ("train", "test"):
        dense = embedded.load("rooms_seg", split=split)
        depth = embedded.load("rooms_depth", split=split)
        assert dense.keys == depth.keys
        seen = set()
        for i in range(0, len(dense), 3):
            sample = dense[i]
            seen |= set(np.unique(sample["mask"]).tolist())
            for box, label in zip(sample["boxes"].astype(int), sample["box_labels"], strict=True):
                x1, y1, x2, y2 = box
                assert (sample["mask"][y1:y2, x1:x2] == label).sum() >= 24
            metres = depth[i]["depth"][depth[i]["depth_valid"]]
            assert metres.min() > 0.25 and metres.max() < 9.0
        assert set(range(len(dense.classes))) <= seen


def test_near_duplicates_are_gone():
    def small(source, count):
        picks = np.linspace(0, len(source) - 1, count).astype(int).tolist()
        rows = []
        for i in picks:
            image = source[i]["image"].astype(np.float32)
            if image.shape[2] == 4:
                alpha = image[:, :, 3:] / 255
                image = image[:, :, :3] * alpha + 128 * (1 - alpha)
            side = image.shape[0] // 4 * 4
            cells = image[:side, :side].reshape(4, side // 4, 4, side // 4, 3).mean((1, 3))
            rows.append(cells.reshape(-1))
        return np.stack(rows)

    pool = np.concatenate(
        [small(embedded.load("emoji_groups"), 700), small(embedded.load("clipart_pool"), 300)]
    )
    for name in ("emoji_style", "emoji_concept", "clipart_leaf"):
        test = small(embedded.load(name, split="test"), 150)
        rms = np.sqrt(((test[:, None] - pool[None]) ** 2).mean(2))
        assert (rms.min(1) < 1.5).mean() < 0.02, name


def test_size_and_indexes():
    files = [f for f in packs.FOLDER.iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 34e6
    assert (packs.FOLDER / "contact_sheet.png").stat().st_size <= 300_000
    for name in packs.NAMES:
        store = packs.pack(name)
        assert store.header(5)["key"] == store.keys[5]
        json.dumps(store.index)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="emoji_pairs"):
        embedded.load("emoji_pair")
    with pytest.raises(UserError, match="unknown argument"):
        embedded.load("emoji_pairs", split="train")
    with pytest.raises(UserError, match="'train' or 'test'"):
        embedded.load("fashion", split="val")
    with pytest.raises(UserError, match="'train' or 'test'"):
        embedded.load("fashion")


def test_tokenizer_layout():
    words = tokenizer.load("embedded")
    assert words.vocab_size == 4096 and (words.mask, words.start, words.end) == (4093, 4094, 4095)
    ids = words.encode("A grinning cat, left of a red apple", 16)
    assert ids.dtype == np.int32 and ids.max() == words.end and 0 not in ids[: ids.argmax()]
    assert words.decode(ids).strip() == "a grinning cat, left of a red apple"
