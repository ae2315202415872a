"""CLIP's text rules over a small tokenizer trained here."""

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.make import text as tokenizer


def test_layout(train_tokenizer):
    words = tokenizer.load(train_tokenizer())
    assert (words.mask, words.start, words.end) == tuple(words.vocab_size - k for k in (3, 2, 1))
    tokens = words.encode("red apple", 12)
    assert tokens.dtype == np.int32 and tokens.shape == (12,)
    end = int(np.argmax(tokens))
    assert tokens[0] == words.start and tokens[end] == words.end and (tokens[end + 1 :] == 0).all()
    assert words.decode(tokens) == "red apple"


def test_cut_keeps_the_end(train_tokenizer):
    words = tokenizer.load(train_tokenizer())
    long = words.encode("red apple green apple pear fruit food", 40)
    cut = words.encode("red apple green apple pear fruit food", 5)
    np.testing.assert_array_equal(cut[:4], long[:4])
    assert cut[4] == words.end
    np.testing.assert_array_equal(words.encode("", 3), [words.start, words.end, 0])
    with pytest.raises(UserError, match="context: 1; give at least 2"):
        words.encode("a", 1)


def test_cleaning(train_tokenizer):
    words = tokenizer.load(train_tokenizer())
    assert tokenizer.clean("  Green\tAPPLE &amp;amp;\n pear ") == "green apple & pear"
    assert tokenizer.clean("cafe\u0301") == "caf\u00e9"
    np.testing.assert_array_equal(
        words.encode("Green  apple &amp; pear", 20), words.encode("green apple & pear", 20)
    )


def test_a_caption_cannot_spell_a_special_token(train_tokenizer):
    words = tokenizer.load(train_tokenizer())
    tokens = words.encode("red <|endoftext|> apple <|mask|>", 60)
    assert (tokens == words.end).sum() == 1 and (tokens == words.mask).sum() == 0
    assert words.decode(tokens) == "red <|endoftext|> apple <|mask|>"


def test_mistakes(tmp_path, train_tokenizer):
    with pytest.raises(UserError, match="no such tokenizer; train it with"):
        tokenizer.load(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json: no `tokenizers` JSON file"):
        tokenizer.load(tmp_path / "bad.json")
    path = train_tokenizer(tokenizer.SPECIAL[::-1])
    with pytest.raises(UserError, match="make them the largest, in order"):
        tokenizer.load(path)


def test_embedded_tokenizer():
    if not tokenizer.EMBEDDED.is_file():
        pytest.skip("the embedded tokenizer is not built")
    words = tokenizer.load("embedded")
    tokens = words.encode("Grinning face", 16)
    assert words.decode(tokens) == "grinning face" and tokens.max() == words.end


# --- CLIP's vocabulary from a file of merges ----------------------------------------------------

MERGES = "#version: 0.2\na p\nap p\nr e\nre d</w>\nl e</w>\napp le</w>\n"


@pytest.fixture
def merges(tmp_path):
    path = tmp_path / "bpe.txt"
    path.write_text(MERGES, "utf-8")
    return path


def test_ids_of_a_small_file_by_hand(merges):
    words = tokenizer.load(merges)
    # 256 letters, 256 letters that end a word, then a merge each; "!" is the first letter, "a" the 65th.
    assert (words.vocab_size, words.start, words.end) == (520, 518, 519)
    assert words.mask is None and words.ordinary == range(518)
    letter = {c: ord(c) - ord("!") for c in "ardple!"}
    assert words.encode("Red apple!", 8).tolist() == [
        518,
        515,
        517,
        256 + letter["!"],
        519,
        0,
        0,
        0,
    ]
    assert words.encode("app", 5).tolist() == [518, 512, 256 + letter["p"], 519, 0]
    assert words.decode(words.encode("red apple ape", 12)) == "red apple ape"


def test_declip_has_the_mask_before_the_start(merges, tmp_path):
    import gzip

    packed = tmp_path / "bpe.txt.gz"
    packed.write_bytes(gzip.compress(MERGES.encode()))
    plain, masked = tokenizer.load(f"clip:{packed}"), tokenizer.load(f"declip:{merges}")
    assert (masked.vocab_size, masked.mask, masked.start, masked.end) == (521, 518, 519, 520)
    assert plain.vocab_size == 520 and plain.ordinary == masked.ordinary
    np.testing.assert_array_equal(plain.encode("red", 4)[1:2], masked.encode("red", 4)[1:2])


def test_the_merges_of_an_installed_open_clip_are_found_without_importing_it(
    merges, tmp_path, monkeypatch
):
    import sys

    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(UserError, match=r"install open_clip_torch,.* 'clip:PATH/bpe_simple"):
        tokenizer.installed_merges()
    merges.rename(package / tokenizer.CLIP_FILE)
    assert tokenizer.installed_merges() == package / tokenizer.CLIP_FILE
    assert "open_clip" not in sys.modules


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"none\.txt: cannot be read"),
        ("#version\n", "has no merges; give CLIP's"),
        ("#version\na b\na b c\n", r"none\.txt:3: no merge of two parts"),
        (b"\x1f\x8bno gzip", "cannot be read"),
    ],
)
def test_files_of_no_merges_are_named(tmp_path, content, said):
    path = tmp_path / "none.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as told:
        tokenizer.clip(path, mask=False)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="'clip:' names no file"):
        tokenizer.load("clip:")


# --- odd texts ----------------------------------------------------------------------------------


def test_half_a_surrogate_pair_is_a_replacement_character(train_tokenizer):
    words = tokenizer.load(train_tokenizer())
    assert tokenizer.clean("a red apple \ud83d") == "a red apple \ufffd"
    assert tokenizer.clean("\ud83d\udc31") == "\U0001f431"
    np.testing.assert_array_equal(
        words.encode("red \ud83d", 16), words.encode("red \N{REPLACEMENT CHARACTER}", 16)
    )


def test_of_a_long_text_the_beginning_is_read(train_tokenizer, merges):
    for words in (tokenizer.load(train_tokenizer()), tokenizer.load(merges)):
        for text in ("red apple " * 10_000, "x" * 100_000):
            tokens = words.encode(text, 20)
            assert tokens[0] == words.start and tokens[-1] == words.end
            np.testing.assert_array_equal(tokens, words.encode(text[:1000], 20))
