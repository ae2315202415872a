"""Edits of captions, beside EDA's rules written again."""

import json
from collections import Counter

import numpy as np
import pytest

from intern_jax.core.config import UserError, bind
from intern_jax.data import embedded
from intern_jax.data.make import captions


def rng(seed=0):
    return np.random.default_rng(seed)


def many(function, count=4000):
    return Counter(function(rng(seed)) for seed in range(count))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(
        json.dumps({"red": ["ruddy", "blood-red"], "Apple": ["orchard fruit"]}), "utf-8"
    )
    return str(path)


def test_the_three_edits_are_equally_likely(table):
    """Of "red apple pie": a synonym of one of two words; three swaps; a deletion of any words, not of all."""

    def edit(draws):
        return captions.eda("red apple pie", ["red apple pie", "food"], draws, synonyms=table)

    found = many(edit)
    synonyms = {
        "ruddy apple pie": 1 / 4,
        "blood-red apple pie": 1 / 4,
        "red orchard fruit pie": 1 / 2,
    }
    swaps = {"apple red pie": 1 / 3, "pie apple red": 1 / 3, "red pie apple": 1 / 3}
    deletions = {"red apple pie": 0.9**3}
    deletions |= dict.fromkeys(("red apple", "apple pie", "red pie"), 0.1 * 0.9**2)
    deletions |= dict.fromkeys(("red", "apple", "pie"), 0.01 * 0.9 + 0.001 / 3)
    expected = {t: p / 3 for kind in (synonyms, swaps, deletions) for t, p in kind.items()}
    assert set(found) <= set(expected)
    assert np.isclose(sum(expected.values()), 1)
    for text, p in expected.items():
        assert abs(found[text] / 4000 - p) < 4.5 * np.sqrt(p * (1 - p) / 4000), text


def test_a_word_is_replaced_wherever_it_stands(table):
    def edit(draws):
        return captions.eda("Red car red Car", [], draws, edits=("synonym",), synonyms=table)

    # "Red" and "red" are two words, as in the original.
    assert set(many(edit, 200)) == {
        *("ruddy car red Car", "blood-red car red Car"),
        *("Red car ruddy Car", "Red car blood-red Car"),
    }
    twice = captions.with_synonym(["apple", "and", "apple"], captions.load_synonyms(table), rng())
    assert twice == ["orchard fruit", "and", "orchard fruit"]


def test_texts_without_a_choice_stay(table):
    for seed in range(50):
        for text, edits in (
            ("cup", ("swap", "deletion")),
            ("a cup of tea", ("synonym",)),
            ("cup", ("other",)),
            ("", ("synonym", "swap", "deletion")),
            ("a cup", ()),
        ):
            assert captions.eda(text, [text], rng(seed), edits=edits, synonyms=table) == text
        alone = captions.eda("cup", ["cup"], rng(seed), edits=("synonym",), synonyms=None)
        assert alone == "cup"


def test_other_is_another_of_the_concepts_texts():
    def edit(draws):
        return captions.eda("cup", ["cup", "mug", "tea"], draws, edits=("other",))

    found = many(edit, 500)
    assert set(found) == {"mug", "tea"} and min(found.values()) > 180


def test_dropped_words_keep_their_order():
    words = [f"w{i}" for i in range(12)]
    seen = Counter()
    for seed in range(400):
        kept = captions.drop_words(" ".join(words), [], rng(seed), share=0.75).split()
        assert len(kept) == 3 and kept == sorted(kept, key=words.index)
        seen.update(kept)
    assert min(seen.values()) > 60 and len(seen) == 12
    assert captions.drop_words("one two", [], rng(), share=1.0, words=2) == "one two"
    assert len(captions.drop_words("one two three", [], rng(), share=1.0).split()) == 1


def test_a_block_of_words_is_successive():
    words = [f"w{i}" for i in range(10)]
    starts = Counter()
    for seed in range(700):
        kept = captions.block_of_words(" ".join(words), [], rng(seed), words=4).split()
        first = words.index(kept[0])
        assert kept == words[first : first + 4]
        starts[first] += 1
    assert set(starts) == set(range(7)) and min(starts.values()) > 60
    assert captions.block_of_words("a b", [], rng(), words=4) == "a b"


def test_tables_of_ones_own(tmp_path, table):
    lines = tmp_path / "words.tsv"
    lines.write_text("red\truddy\tblood-red\n\nApple\torchard fruit\n", "utf-8")
    assert captions.load_synonyms(lines) == captions.load_synonyms(table)
    for name, content, said in (
        ("a.json", "[1]", "holds list"),
        ("b.json", "{", "cannot be read"),
        ("c.json", '{"two words": ["x"]}', "two words: no single word"),
        ("d.tsv", "alone\n", "alone: no single word with a list"),
        ("e.json", None, "cannot be read"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content, "utf-8")
        with pytest.raises(UserError, match=said) as told:
            spec = {"fn": "intern_jax.data.make.captions:eda", "synonyms": str(tmp_path / name)}
            bind(spec, 3)
        assert "\n" not in str(told.value) and name in str(told.value)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("eda", {"edits": ("delete",)}, "edits: no 'delete'; did you mean deletion"),
        ("eda", {"p": 2}, "p: 2; give a share of words"),
        ("drop_words", {"share": -1}, "share: -1; give a share"),
        ("block_of_words", {"words": 0}, "words: 0; give at least 1"),
    ],
)
def test_mistakes_are_told_when_the_config_is_read(name, settings, said):
    with pytest.raises(UserError, match=said):
        bind({"fn": f"intern_jax.data.make.captions:{name}", **settings}, 3)


def test_the_embedded_table_is_of_the_embedded_words():
    table = captions.load_synonyms("embedded")
    assert len(table) > 3000 and captions.EMBEDDED.stat().st_size < 300_000
    assert "grin" in table["smile"] and "automobile" in table["car"]
    assert not {"the", "of", "and", "with", "on"} & set(table)
    for word, found in table.items():
        assert word == word.lower() and word not in found and 1 <= len(found) <= 4
    source = embedded.load("emoji_pairs")
    texts = [source[i]["texts"][0] for i in range(0, len(source), 7)]
    known = [any(word.lower() in table for word in text.split()) for text in texts]
    assert np.mean(known) > 0.6
