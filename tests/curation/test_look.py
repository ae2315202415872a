"""Facts of pictures: cleanvision's formulas written out with Pillow and numpy, digests, bounded memory."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFilter

from intern_jax.curation.pictures import look, near


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def facts(*pictures):
    return np.array([look.facts(picture) for picture in pictures])


def test_measures_are_those_of_cleanvision():
    small = Image.fromarray(noise(20, 30))
    picture = np.asarray(small.resize((200, 150)))
    found = look.facts(picture)
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)
    brightness = np.sqrt(0.241 * red**2 + 0.691 * green**2 + 0.068 * blue**2) / 255
    assert found["brightest"] == pytest.approx(np.percentile(brightness, 99), abs=1e-4)
    assert found["darkest"] == pytest.approx(np.percentile(brightness, 5), abs=1e-4)
    counts = np.array(Image.fromarray(picture).histogram())
    parts = counts[counts > 0] / counts.sum()
    assert found["entropy"] == pytest.approx(-(parts * np.log2(parts)).sum(), rel=1e-5)
    gray = Image.fromarray(picture).resize((64, 48)).convert("L")
    edges = np.asarray(gray.filter(ImageFilter.FIND_EDGES)).astype(np.float64)
    assert found["edges"] == pytest.approx(edges.std(), rel=1e-5)
    assert found["counts"] == pytest.approx(np.std(gray.histogram()), rel=1e-5)


def test_issues_say_what_is_wrong():
    sharp = noise(64, 64)
    ramp = np.arange(64 * 64).reshape(64, 64, 1) * 200 / 64**2
    pictures = {
        "": sharp,
        "dark": sharp // 5,
        "light": 255 - noise(64, 64, seed=1) // 40,
        "low_information": np.tile(np.repeat(np.uint8([[0, 255]]), 32, 1)[..., None], (64, 1, 3)),
        "blurry": (ramp * (1.0, 0.95, 0.9)).astype(np.uint8),
        "odd_aspect": noise(20, 205),
        "odd_size": noise(900, 900),
        "grayscale": np.repeat(noise(64, 64, 1), 3, 2),
        "blank": np.zeros((64, 64, 4), np.uint8),
    }
    found = look.issues(facts(*pictures.values(), *(noise(64, 64, seed=i) for i in range(20))))
    for row, name in enumerate(pictures):
        if name:
            assert found[name][row], name
    assert not any(one[0] for one in found.values())


def test_the_odd_one_is_odd():
    same = [noise(64, 64, seed=i) for i in range(30)]
    odd = np.zeros((500, 20, 4), np.uint8)
    odd[100:110, 5:9] = (255, 0, 0, 255)
    scores = look.oddness(facts(*same, odd))
    assert np.argmax(scores) == 30 and scores[30] > look.ODD > scores[:30].max()
    assert len(look.oddness(np.zeros(0, look.FACTS))) == 0


def test_a_black_icon_is_not_dark():
    icon = np.zeros((64, 64, 4), np.uint8)
    icon[20:40, 20:40, 3] = 255
    found = look.issues(facts(icon))
    assert not found["dark"][0] and not found["low_information"][0]


def test_digests_are_of_what_is_visible():
    picture = noise(9, 7)
    opaque = np.dstack([picture, np.full((9, 7), 255, np.uint8)])
    clear = noise(9, 7, 4)
    clear[:4, :, 3] = 0
    hidden = clear.copy()
    hidden[:4, :, :3] = 9
    a, b, c, d = facts(picture, opaque, clear, hidden)["pixels"]
    assert (a == b).all() and (c == d).all() and (a != c).any()
    assert (look.facts(picture)["encoded"] == 0).all()
    assert (look.facts(picture, b"x")["encoded"] == look.facts(opaque, b"x")["encoded"]).all()
    # The shape counts too.
    assert (look.facts(picture.reshape(7, 9, 3))["pixels"] != a).any()


def test_large_pictures_need_little_memory():
    picture = np.zeros((6000, 4000, 4), np.uint8)
    picture[1000:3000, 1000:3000] = 200
    tracemalloc.start()
    found = look.facts(picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < picture.nbytes
    assert found["near"]["kind"] == near.CUT_OUT


def test_facts_are_the_same_bytes_again():
    picture = noise(130, 97, 4)
    assert look.facts(picture).tobytes() == look.facts(picture.copy()).tobytes()
