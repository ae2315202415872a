"""Captions of any bytes become text that every encoder accepts; labels get their numbers."""

import json
import random
import unicodedata

import pytest

from intern_jax.core.config import UserError
from intern_jax.data.open import texts


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xef\xbb\xbfa cup\r\n", "a cup"),
        (b"a\x00 red\x07\tcup \n", "a red cup"),
        (b"caf\xe9", "caf�"),
        ("\ufeffa  cup", "a cup"),
        (json.loads('"a red apple \\ud83d"'), "a red apple"),
        (json.loads('"\\ud83c\\udf4e apple"'), "\N{RED APPLE} apple"),
        ("a\x85b\u2028c", "a b c"),
        (b"\x00\x01 \n", ""),
        ("x" * 20_000, "x" * texts.MAX_TEXT),
    ],
)
def test_clean(value, expected):
    assert texts.clean(value) == expected


def test_any_bytes_become_valid_text():
    rng = random.Random(0)
    for _ in range(300):
        text = texts.clean(rng.randbytes(rng.randrange(60)))
        text.encode("utf-8")
        assert text == " ".join(text.split())
        assert not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text)


def test_captions_of_lists_and_lines():
    assert texts.captions(["a", "", 3, b"b\xff", None]) == ["a", "b�"]
    assert texts.captions({"a": 1}) == texts.captions(None) == texts.captions(3.5) == []
    assert texts.caption_lines(b"one\r\n\r\n  two\n\x00\n") == ["one", "two"]
    assert len(texts.caption_lines(b"x\n" * 50_000)) == texts.MAX_TEXTS


def test_labels_are_numbered_by_value_or_name():
    def numbered(names, classes=None):
        labels = texts.Labels()
        for name in names:
            labels.add(name)
        found, codes = labels.finish(classes, "set")
        return found, codes.tolist()

    assert numbered(["10", "9", None, "10"]) == (("9", "10"), [1, 0, -1, 1])
    assert numbered(["b", "a", "10"]) == (("10", "a", "b"), [2, 1, 0])
    assert numbered(["b"], ["c", "b"]) == (("c", "b"), [1])
    assert numbered([]) == ((), [])
    with pytest.raises(UserError, match="'b' is none of the 1 classes"):
        numbered(["b"], ["a"])


def test_a_class_name_is_text_or_a_whole_number():
    given = ["\ufeffcat ", 3, 3.0, float("nan"), None, "", b"7\n"]
    assert [texts.class_name(one) for one in given] == ["cat", "3", "3", None, None, None, "7"]
    for wrong in (True, 1.5, ["a"], {}):
        with pytest.raises(ValueError, match="a label is text or a whole number"):
            texts.class_name(wrong)
