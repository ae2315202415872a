"""Planted copies are found and details are told apart; keys, pairs and descriptors are the same in any order."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from intern_jax.curation.pictures import near
from intern_jax.data.embedded import packs
from tools.bench import planted

# The constants were settled on other makers: mdi, ph, icon-park, noto, streamline-color.
MAKERS = ("tabler", "solar", "twemoji", "fluent-emoji-flat", "vscode-icons")
LEAST = {"reencoded": 0.98, "resized": 0.98, "recoloured": 0.9, "mirrored": 0.9, "cropped": 0.9}


def described(pictures):
    return np.array([near.describe(picture) for picture in pictures])


def found(descriptors):
    """Pairs of rows that are called copies."""
    entries = near.bands(descriptors)
    pairs = near.candidates(entries[np.argsort(entries["key"], kind="stable")])
    keep = [
        near.same(descriptors[part[:, 0]], descriptors[part[:, 1]])
        for part in np.array_split(pairs, len(pairs) // 20_000 + 1)
    ]
    return pairs[np.concatenate(keep)]


def recall(pictures, chosen, seed):
    """Parts of the planted copies that pair with their originals, by change; `chosen` rows have a copy each."""
    rng = np.random.default_rng(seed)
    copies, changes = [], []
    for i, row in enumerate(chosen):
        changes.append(list(planted.CHANGES)[i % len(planted.CHANGES)])
        copies.append(planted.CHANGES[changes[-1]](pictures[row], rng))
    pairs = found(described([*pictures, *copies]))
    together = set(map(tuple, pairs.tolist()))
    hits = [(row, len(pictures) + i) in together for i, row in enumerate(chosen)]
    return {
        change: np.mean([hit for hit, other in zip(hits, changes, strict=True) if other == change])
        for change in planted.CHANGES
    }


@functools.cache
def embedded():
    return [
        packs.pack(name).array(i)
        for name, count in (("emoji", 600), ("clipart", 300), ("furniture", 200))
        for i in range(count)
    ]


@pytest.mark.medium
def test_copies_of_embedded_pictures_are_found():
    pictures = embedded()
    chosen = np.random.default_rng(3).choice(len(pictures), 200, replace=False)
    rates = recall(pictures, chosen, seed=4)
    assert all(rates[change] >= LEAST[change] - 0.03 for change in rates), rates


def test_copies_of_photographs_are_found():
    rng = np.random.default_rng(0)
    # Smooth noise of mild colours, which has no ground.
    grey, colour = rng.integers(0, 200, (60, 6, 6, 1)), rng.integers(0, 56, (60, 6, 6, 3))
    noise = (grey + colour).astype(np.uint8)
    pictures = [np.asarray(Image.fromarray(one).resize((200, 150))) for one in noise]
    rates = recall(pictures, np.arange(60), seed=1)
    assert min(rates.values()) >= 0.9, rates


def chosen_icons(wanted):
    pytest.importorskip("resvg_py")
    if not planted.SETS.is_dir():
        pytest.skip("build/npm has no @iconify/json")
    rng = np.random.default_rng(1)
    pictures, makers = [], []
    for maker, count in wanted.items():
        icons = json.loads((planted.SETS / f"{maker}.json").read_text("utf-8"))["icons"]
        names = rng.permutation(sorted(icons))[:count].tolist()
        drawn = [one for one in planted.icons(maker, wanted=names).values() if one[..., 3].any()]
        pictures += drawn
        makers += [maker] * len(drawn)
    return pictures, np.array(makers)


@pytest.mark.slow
def test_copies_among_ten_thousand_icons_are_found():
    others = {"carbon": 2500, "mingcute": 2500}
    pictures, makers = chosen_icons(dict.fromkeys(MAKERS, 1600) | others)
    assert len(pictures) > 10_000
    rng = np.random.default_rng(2)
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(makers == maker), 100, replace=False) for maker in MAKERS]
    )
    rates = recall(pictures, chosen, seed=5)
    assert all(rates[change] >= LEAST[change] for change in rates), rates


@pytest.mark.parametrize(
    "makers, each",
    [
        (("lucide",), 60),
        pytest.param((*MAKERS, "lucide", "ri"), 100, marks=pytest.mark.slow),
    ],
)
def test_icons_that_differ_in_a_detail_are_told_apart(makers, each):
    pytest.importorskip("resvg_py")
    if not planted.SETS.is_dir():
        pytest.skip("build/npm has no @iconify/json")
    ones, others = [], []
    for maker in makers:
        names = json.loads((planted.SETS / f"{maker}.json").read_text("utf-8"))["icons"]
        pairs = np.random.default_rng(0).permutation(planted.details(list(names)))[: 2 * each]
        drawn = planted.icons(maker, wanted=sorted({str(name) for name in pairs.ravel()}))
        kept = [pair for pair in pairs if not planted.alike(*(drawn[name] for name in pair))]
        ones += [drawn[a] for a, _ in kept[:each]]
        others += [drawn[b] for _, b in kept[:each]]
    assert np.mean(near.same(described(ones), described(others))) <= 0.02


def test_a_descriptor_depends_neither_on_tint_nor_on_ground():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[10:50, 20:30, 3] = picture[40:50, 20:55, 3] = 255
    tinted = picture.copy()
    tinted[..., :3] = (200, 30, 90)
    laid = planted.lay(tinted, np.array([250, 250, 250]))
    plain, other, flat = described([picture, tinted, laid])
    assert (plain["hashes"][0] == other["hashes"][0]).all()
    assert (plain["hashes"][0] == flat["hashes"][0]).all()
    assert near.same(plain[None], flat[None]).all()


def test_a_mirror_image_is_a_copy_unless_told_otherwise():
    picture = embedded()[0]
    a, b = described([picture])[:1], described([picture[:, ::-1]])[:1]
    assert (a["hashes"][0, 0] == b["hashes"][0, near.VARIANTS // 2]).all()
    assert near.same(a, b)[0]
    letter = np.zeros((64, 64, 4), np.uint8)
    letter[8:56, 20:28, 3] = letter[48:56, 20:48, 3] = 255
    a, b = described([letter]), described([letter[:, ::-1]])
    assert near.same(a, b)[0] and not near.same(a, b, mirror=False)[0]


def test_nothing_depends_on_the_batch():
    descriptors = described(embedded()[:60])
    entries = near.bands(descriptors)
    parts = [near.bands(descriptors[:25]), near.bands(descriptors[25:], first_row=25)]
    assert sorted(map(bytes, entries)) == sorted(map(bytes, np.concatenate(parts)))
    entries = entries[np.argsort(entries["key"], kind="stable")]
    pairs = near.candidates(entries)
    cut = np.searchsorted(entries["key"], entries["key"][len(entries) // 2])
    halves = np.concatenate([near.candidates(entries[:cut]), near.candidates(entries[cut:])])
    np.testing.assert_array_equal(pairs, near.distinct(halves))
    shuffled = np.random.default_rng(0).permutation(entries)
    shuffled = shuffled[np.argsort(shuffled["key"], kind="stable")]
    np.testing.assert_array_equal(pairs, near.candidates(shuffled))
    a, b = descriptors[pairs[:, 0]], descriptors[pairs[:, 1]]
    alone = [near.same(a[i : i + 1], b[i : i + 1])[0] for i in range(len(pairs))]
    np.testing.assert_array_equal(near.same(a, b), alone)


def test_popular_keys_stay_linear():
    descriptor = described(embedded()[:1])
    entries = near.bands(np.repeat(descriptor, 3000))
    pairs = near.candidates(entries[np.argsort(entries["key"], kind="stable")])
    assert len(pairs) <= 3000 * near.BANDS * (1 << near.WEAK) * near.KEPT
    # Every row still has a partner.
    assert len(np.unique(pairs)) == 3000


def test_blank_pictures_have_no_keys():
    blank = described([np.zeros((20, 30, 4), np.uint8), np.full((9, 9, 3), 200, np.uint8)])
    assert (blank["kind"] == near.BLANK).all()
    assert len(near.bands(blank)) == 0 and near.candidates(near.bands(blank)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1, 4), (2, 3, 4), (1, 700, 3), (3000, 2, 4)])
def test_pictures_of_any_size_have_a_descriptor(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert near.describe(picture) == near.describe(picture.copy())


def test_large_pictures_are_reduced_as_by_pillow():
    picture = np.random.default_rng(0).integers(0, 256, (3001, 700, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(picture).reduce(24))
    np.testing.assert_array_equal(near.reduced(picture), expected)
