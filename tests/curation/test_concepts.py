"""Names, their links, and what is found in texts."""

import pytest
from icon_package import write_wordnet

from intern_jax.core.config import UserError
from intern_jax.curation.concepts import Names, WordNet, forms, words


@pytest.fixture
def nouns(tmp_path):
    return WordNet(write_wordnet(tmp_path))


@pytest.mark.parametrize(
    "text, found",
    [
        ("Arrow-Left_2", ("arrow", "left", "2")),
        ("Cities, buses & boxes", ("cities", "buses", "boxes")),
        ("Café (größe)", ("cafe", "grosse")),
        ("  ", ()),
    ],
)
def test_words(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    "one, several",
    [
        ("cat", "cats"),
        ("horse", "horses"),
        ("house", "houses"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("glass", "glasses"),
        ("city", "cities"),
        ("cookie", "cookies"),
        ("tie", "ties"),
        ("leaf", "leaves"),
        ("knife", "knives"),
        ("glove", "gloves"),
        ("potato", "potatoes"),
        ("shoe", "shoes"),
        ("mouse", "mice"),
        ("foot", "feet"),
        ("man", "men"),
        ("fireman", "firemen"),
        ("woman", "women"),
        ("policewoman", "policewomen"),
        ("child", "children"),
        ("face", "faces"),
        ("key", "keys"),
        ("quiz", "quizzes"),
        ("horse", "horse2"),
        ("dish", "dishes"),
        ("axis", "axis"),
    ],
)
def test_one_and_several_are_found_by_each_other(one, several):
    assert forms(one) & forms(several)
    assert Names({"held": [one]}).find(f"two {several} there") == "held"
    assert Names({"held": [several]}).find(f"the {one}") == "held"


@pytest.mark.parametrize(
    "one, other",
    [
        ("car", "care"),
        ("car", "cares"),
        ("plan", "planes"),
        ("can", "cane"),
        ("house", "mouse"),
        ("bus", "bush"),
    ],
)
def test_other_words_are_not_found(one, other):
    assert Names({"held": [one]}).find(f"the {other}") is None


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
