"""CLIP's token ids, beside open_clip's tokenizer on many odd captions."""

import json
import random

import numpy as np
import pytest

from intern_jax.data.make import text as tokenizer

pytestmark = pytest.mark.peers

ODD = (
    "",
    " ",
    "a photo of a cat.",
    "A Photo OF a CAT!!!",
    "it's the dog's, they'll say we've won; I'd say you're I'm don't can't",
    "IT'S they'RE",
    "2021-03-04 12:30, 1,000,000 and 3.14159",
    "naïve café, Zürich, Ångström",
    "cafe\u0301 decomposed",
    "日本語のテキスト と 中文 and 한국어",
    "русский текст",
    "नमस्ते दुनिया",
    "العربية",
    "🐱🐶 emoji 👨‍👩‍👧 family 🇩🇪",
    "&amp;amp; &lt;b&gt;bold&lt;/b&gt; &quot;quoted&quot;",
    "a\tb\nc\r\nd  e",
    "hello_world foo-bar foo/bar https://example.org/x?y=1&z=2",
    "!?#$%^&*()[]{}|\\~`",
    "x" * 300,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "½ ² Ⅷ ① ٣",
    "<b>html</b> <!-- comment -->",
    "İstanbul ß",
    "''' '' ' 's 'S",
    "word " * 200,
    "\u00a0no\u2003break\u3000spaces",
    "a\u200bb zero width",
    "<|startoftext|> spelt <|endoftext|>",
)


def captions() -> list[str]:
    """The odd ones, and mixtures of their parts and of letters."""
    draw = random.Random(0)
    parts = [word for text in ODD for word in text.split()] + list("abcXYZ019.,'-&é日🐱 ")
    return [
        *ODD,
        *(" ".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(1500)),
        *("".join(draw.choices(parts, k=draw.randint(1, 8))) for _ in range(1500)),
    ]


@pytest.fixture(scope="module")
def theirs(ask):
    texts = np.frombuffer(json.dumps(captions()).encode(), np.uint8)
    return ask("clip_ids", texts=texts)


@pytest.fixture(scope="module")
def merges(theirs) -> str:
    return theirs["merges"].tobytes().decode()


def test_ids_are_open_clips(theirs, merges):
    words = tokenizer.load(f"clip:{merges}")
    assert (words.vocab_size, words.start, words.end) == (49408, 49406, 49407)
    ends = np.cumsum(theirs["counts"])
    for text, end, count in zip(captions(), ends, theirs["counts"], strict=True):
        expected = theirs["ids"][end - count : end].tolist()
        found = words.encode(text, count + 2)[1:-1].tolist()
        assert found == expected, repr(text)


def test_rows_are_open_clips(theirs, merges):
    words = tokenizer.load(merges)
    found = np.stack([words.encode(text, 77) for text in captions()])
    np.testing.assert_array_equal(found, theirs["tokens"])


def test_declips_ids_are_clips_with_the_mask_before_the_start(merges):
    clip, declip = tokenizer.load(f"clip:{merges}"), tokenizer.load(f"declip:{merges}")
    assert (declip.vocab_size, declip.mask, declip.start, declip.end) == (
        49409,
        49406,
        49407,
        49408,
    )
    for text in captions()[:100]:
        plain, masked = clip.encode(text, 77), declip.encode(text, 77)
        ordinary = plain < clip.start
        np.testing.assert_array_equal(plain[ordinary], masked[ordinary])
        np.testing.assert_array_equal(plain[~ordinary] + 1, masked[~ordinary])


def test_what_ftfy_repairs_is_the_difference(merges, ask):
    """Curly quotes, ligatures, full-width letters and wrongly decoded bytes."""
    texts = ("it’s “quoted”", "ﬁne", "\uff26\uff35ll", "Ã©")
    answer = ask("clip_ids", texts=np.frombuffer(json.dumps(texts).encode(), np.uint8))
    words = tokenizer.load(merges)
    for text, expected in zip(texts, answer["tokens"], strict=True):
        assert words.encode(text, 77).tolist() != expected.tolist()
    repaired = ('it\'s "quoted"', "fine", "full", "é")
    for text, expected in zip(repaired, answer["tokens"], strict=True):
        assert words.encode(text, 77).tolist() == expected.tolist()
