"""Names, their links, and what is found in texts."""

import pytest
from icon_package import write_wordnet

from intern_jax.core.config import UserError
from intern_jax.curation.concepts import Names, WordNet, words


@pytest.fixture
def nouns(tmp_path):
    return WordNet(write_wordnet(tmp_path))


@pytest.mark.parametrize(
    "text, found",
    [
        ("Arrow-Left_2", ("arrow", "left", "2")),
        ("Cities, buses & boxes", ("city", "bus", "box")),
        ("glass bus gas is", ("glass", "bus", "gas", "is")),
        ("Café (größe)", ("cafe", "grosse")),
        ("  ", ()),
    ],
)
def test_words(text, found):
    assert words(text) == found


def test_names_of_one_meaning_are_one_concept(nouns):
    assert nouns.concept("car") == nouns.concept("Automobiles") == "n00000030"
    assert nouns.concept("red car") == "red car"
    # The whole name as it is spelt comes before its singular.
    assert nouns.concept("glasses") == "n00000040" != nouns.concept("glass")


def test_names_are_synonyms_and_kinds(nouns):
    assert nouns.names("cat", kinds=False) == ["cat", "true cat"]
    assert nouns.names("cat") == ["cat", "true cat", "tabby", "tabby cat"]
    assert nouns.names("gizmo") == ["gizmo"]


@pytest.mark.parametrize(
    "text, found",
    [
        ("cat-face", "cat"),
        ("two Cats on a mat", "cat"),
        ("a tabby", "cat"),
        ("category, concatenate", None),
        ("ice", None),
        ("cream ice", None),
        ("ice creams", "ice cream"),
    ],
)
def test_names_are_found_as_whole_words(nouns, text, found):
    find = Names({"cat": nouns.names("cat"), "ice cream": ["ice cream"]})
    assert find.find(text) == found


def test_a_missing_dictionary_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"index.noun: missing; apt-get install wordnet-base"):
        WordNet(tmp_path / "nothing")
