"""Rows of pairs: keyed per view, aligned in what they show, with targets where words were masked."""

import numpy as np
import pytest

from intern_jax.core.config import UserError, bind
from intern_jax.data.make import text as tokenizer
from intern_jax.data.make.pairs import PairViews, masked

AUGMENT = "intern_jax.data.make.augment"
CAPTIONS = "intern_jax.data.make.captions"
CROP = {"fn": f"{AUGMENT}:random_resized_crop", "scale": (0.2, 1.0)}
FLIP = {"fn": f"{AUGMENT}:horizontal_flip"}
JITTER = {"fn": f"{AUGMENT}:color_jitter"}
GREY = {"fn": f"{AUGMENT}:grayscale", "p": 1.0}
STILL = {"view1": (), "text2": ()}


def rng(seed=0):
    return np.random.default_rng(seed)


def sample(count=1, texts=("red apple", "fruit", "food")):
    made = np.random.default_rng(5).integers(0, 256, (count, 32, 40, 3), dtype=np.uint8)
    found = {"image": made[0], "texts": list(texts), "key": "k"}
    return found | ({"views": list(made[1:])} if count > 1 else {})


@pytest.fixture
def words(train_tokenizer):
    return train_tokenizer()


def equal(a, b, *but):
    assert a.keys() == b.keys()
    return {name for name in a if name not in but and not np.array_equal(a[name], b[name])}


def test_the_row(words):
    row = PairViews(24, words, context=12)(sample(), rng())
    assert {n: (v.shape, v.dtype.name) for n, v in row.items()} == {
        "image1": ((24, 24, 3), "uint8"),
        "image2": ((24, 24, 3), "uint8"),
        "tokens1": ((12,), "int32"),
        "tokens2": ((12,), "int32"),
    }
    assert tokenizer.load(words).decode(row["tokens1"]) == "red apple"


def test_views_show_two_pictures_of_a_concept(words):
    views = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(4)]
    given = {"image": views[0], "views": views[1:], "texts": ["a"], "key": "k"}
    seen = set()
    for seed in range(40):
        row = PairViews(16, words, **STILL)(given, rng(seed))
        first, second = int(row["image1"][0, 0, 0]), int(row["image2"][0, 0, 0])
        assert first != second
        seen |= {first, second}
        located = PairViews(16, words, geometry=True, **STILL)(given, rng(seed))
        assert (located["image1"] == located["image2"]).all()
    assert seen == {0, 10, 20, 30}


def test_a_row_is_its_generators_and_each_view_has_draws_of_its_own(words):
    settings = {
        **{"size": 16, "tokenizer": words, "view1": (CROP, FLIP, JITTER), "mask": 0.5},
        **{"crops": {"count": 2, "size": 8, "view": (CROP, FLIP)}, "geometry": True},
    }
    made = PairViews(**settings)(sample(2), rng(3))
    assert not equal(made, PairViews(**settings)(sample(2), rng(3)))
    assert equal(made, PairViews(**settings)(sample(2), rng(4)))
    second = PairViews(**settings, view2=(GREY, CROP, JITTER, FLIP, FLIP))(sample(2), rng(3))
    assert equal(made, second) == {"image2", "window2"} | (
        {"flip2"} if made["flip2"] != second["flip2"] else set()
    )
    crops = {**settings, "crops": {"count": 2, "size": 8, "view": (CROP, GREY)}}
    assert equal(made, PairViews(**crops)(sample(2), rng(3))) == {"crops"}
    dropping = {**settings, "text2": ({"fn": f"{CAPTIONS}:drop_words"},)}
    differ = set()
    for seed in range(20):
        rows = [PairViews(**one)(sample(2), rng(seed)) for one in (settings, dropping)]
        differ |= equal(*rows)
    assert {"tokens2"} <= differ <= {"tokens1", "targets1", "tokens2"}
    # Without jitter a crop differs in no other draw.
    plain = PairViews(**{**settings, "view1": (CROP, FLIP), "view2": (CROP, FLIP, JITTER)})(
        sample(2), rng(3)
    )
    assert equal(made, plain) == {"image1"}


def test_the_views_lie_where_the_row_says(words):
    x, y = np.arange(60) + 0.5, np.arange(48) + 0.5
    place = np.zeros((48, 60, 3), np.uint8)
    place[..., 0], place[..., 1] = 255 * x / 60, (255 * y / 48)[:, None]
    views = PairViews(20, words, view1=(CROP, FLIP), geometry=True)
    for seed in range(10):
        row = views({"image": place, "texts": ["a"], "key": "k"}, rng(seed))
        for i in "12":
            x1, y1, x2, y2 = row[f"window{i}"]
            assert row[f"window{i}"].dtype == np.float32 and row[f"flip{i}"].dtype == np.bool_
            steps = (np.arange(20) + 0.5) / 20
            across = x1 + (x2 - x1) * (steps[::-1] if row[f"flip{i}"] else steps)
            middle = row[f"image{i}"][2:-2, 2:-2].astype(float)
            np.testing.assert_allclose(middle[4, :, 0], 255 * across[2:-2], atol=5)
            down = y1 + (y2 - y1) * steps
            np.testing.assert_allclose(middle[:, 4, 1], 255 * down[2:-2], atol=5)


def test_crops_show_the_pictures_in_turn(words):
    views = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(2)]
    given = {"image": views[0], "views": views[1:], "texts": ["a"], "key": "k"}
    crops = {"count": 5, "size": 6, "view": (CROP,)}
    row = PairViews(16, words, crops=crops, **STILL)(given, rng(1))
    assert row["crops"].shape == (5, 6, 6, 3) and row["crops"].dtype == np.uint8
    first, second = int(row["image1"][0, 0, 0]), int(row["image2"][0, 0, 0])
    assert row["crops"][:, 0, 0, 0].tolist() == [first, second, first, second, first]


def test_whole_pictures_have_the_form_of_a_row(words):
    crops = {"count": 3, "size": 6, "view": (CROP,)}
    settings = {"tokenizer": words, "crops": crops, "geometry": True, "mask": 0.15}
    rows = [
        PairViews(16, **settings)(sample(), rng()),
        PairViews(16, train=False, **settings)(sample()),
    ]
    forms = [{n: (v.shape, v.dtype) for n, v in row.items()} for row in rows]
    assert forms[0] == forms[1]
    whole = rows[1]
    assert (whole["image1"] == whole["image2"]).all() and (whole["targets1"] == -1).all()
    assert whole["window1"].tolist() == [0, 0, 1, 1] and not whole["flip2"]
    np.testing.assert_array_equal(whole["tokens1"], whole["tokens2"])


# --- masked words -------------------------------------------------------------------------------


def test_masked_words_are_chosen_and_replaced_in_berts_shares(words):
    known = tokenizer.load(words)
    tokens = known.encode("red apple green pear fruit food " * 4, 60)
    count = int(np.argmax(tokens)) - 1
    kinds = {"mask": 0, "kept": 0, "random": 0}
    chosen = rows = 0
    for seed in range(400):
        out, targets = masked(tokens, known, 0.15, rng(seed))
        picked = targets >= 0
        assert not picked[[0, *range(count + 1, 60)]].any()
        np.testing.assert_array_equal(targets[picked], tokens[picked])
        np.testing.assert_array_equal(out[~picked], tokens[~picked])
        assert (out[picked] <= known.mask).all() and out.dtype == targets.dtype == np.int32
        kinds["mask"] += int((out[picked] == known.mask).sum())
        kinds["kept"] += int((out[picked] == tokens[picked]).sum())
        chosen, rows = chosen + int(picked.sum()), rows + count
    kinds["random"] = chosen - kinds["mask"] - kinds["kept"]
    spread = 4 * np.sqrt(0.15 * 0.85 / rows)
    assert abs(chosen / rows - 0.15) < spread
    for name, share in (("mask", 0.8), ("kept", 0.1), ("random", 0.1)):
        assert abs(kinds[name] / chosen - share) < 4 * np.sqrt(share * (1 - share) / chosen) + 0.01


def test_random_words_are_ordinary_ones_only(words):
    known = tokenizer.load(words)
    tokens = known.encode("red apple green pear fruit food", 40)
    seen = set()
    for seed in range(3000):
        out, _ = masked(tokens, known, 1.0, rng(seed))
        changed = (out != tokens) & (out != known.mask)
        seen |= set(out[changed].tolist())
        assert int(np.argmax(out)) == int(np.argmax(tokens))
    assert seen <= set(known.ordinary) and len(seen) > 0.9 * len(known.ordinary)
    assert min(seen) == 0 or min(known.ordinary) == 1
    embedded = tokenizer.load("embedded")
    assert embedded.ordinary == range(1, embedded.mask)  # 0 is <|pad|>


def test_only_the_first_text_is_masked_and_nothing_chosen_is_minus_one(words):
    row = PairViews(8, words, mask=1.0, **STILL)(sample(), rng())
    np.testing.assert_array_equal(row["tokens2"], tokenizer.load(words).encode("red apple", 16))
    np.testing.assert_array_equal(row["targets1"][1:3] >= 0, [True, True])
    none = PairViews(8, words, mask=1e-9, **STILL)(sample(), rng())
    assert (none["targets1"] == -1).all()
    np.testing.assert_array_equal(none["tokens1"], none["tokens2"])
    assert "targets1" not in PairViews(8, words, **STILL)(sample(), rng())


# --- odd captions and settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    "caption",
    [
        "apple",
        "a red apple \ud83d",
        "\udc00",
        "\ud83d\udc31",
        "x" * 100_000,
        "a red apple " * 10_000,
        "  ",
        "<|endoftext|> <|mask|>",
        "\0\x07",
    ],
)
def test_any_caption_makes_a_row(caption, words):
    edits = tuple(
        {"fn": f"{CAPTIONS}:eda", "edits": (edit,)} for edit in ("synonym", "swap", "deletion")
    )
    views = PairViews(8, words, view1=(), text1=edits[:1], text2=edits, mask=0.3)
    known = tokenizer.load(words)
    for seed in range(3):
        row = views(sample(texts=(caption,)), rng(seed))
        assert row["tokens1"][0] == known.start and (row["tokens1"] == known.end).sum() == 1
        assert (row["tokens2"] == known.end).sum() == 1


def test_a_sample_without_texts_names_itself(words):
    for given in ({}, {"texts": []}):
        with pytest.raises(UserError, match="k/texts: missing; take a source that has them"):
            PairViews(8, words)({"image": sample()["image"], "key": "k", **given}, rng())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"view1": CROP}, "view1: .*give a list of operations"),
        ({"view1": ({"fn": f"{AUGMENT}:blur"},)}, r"view1\[0\]: .*has no 'blur'"),
        ({"view2": (CROP, {**GREY, "p": 2})}, r"view2\[1\]: p: 2; give a share"),
        ({"text2": ({"fn": f"{CAPTIONS}:eda", "edits": ("swop",)},)}, r"text2\[0\]: .*mean swap"),
        ({"crops": {"count": 2}}, "crops.size: missing; give count, size, view"),
        ({"crops": {"count": 0, "size": 4, "view": ()}}, "crops.count: 0; give a whole number"),
        ({"crops": {"count": 1, "size": 4, "view": (), "n": 1}}, "crops.n: unknown"),
        ({"mask": 15}, "mask: 15; give the share of words"),
        ({"scale": (0.2, 1.0)}, "no argument 'scale'"),
    ],
)
def test_mistakes_are_told_when_the_config_is_read(settings, said):
    with pytest.raises(UserError, match=said) as told:
        bind({"fn": "intern_jax.data.make.pairs:PairViews", "size": 8, **settings}, 0)
    assert "\n" not in str(told.value)
