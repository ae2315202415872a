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
