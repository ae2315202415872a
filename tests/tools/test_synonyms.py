"""The table of synonyms is read from WordNet's files as their format says."""

import json

import pytest

from intern_jax.data.make import captions
from tools.embedded import synonyms

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by\n"
# offset lex_filenum type count_hex (word lex_id)... pointers | gloss
DATA = {
    "noun": (
        "00000001 06 n 03 car 0 auto 0 Motor_Car 0 000 | four wheels\n"
        "00000002 06 n 02 car 1 railway_car 0 000 | on rails\n"
        "00000003 06 n 02 car 2 gondola 0 000 | below a balloon\n"
    ),
    "verb": "00000004 30 v 02 drive 0 motor 0 000 | go\n",
    "adj": "00000005 00 a 02 galore(ip) 0 abounding 0 000 | many\n",
    "adv": "00000006 02 r 02 fast 0 tight 0 000 | firmly\n",
}
# lemma type senses pointers [pointers] senses tagged offsets
INDEX = {
    "noun": "car n 3 1 @ 3 2 00000001 00000002 00000003\nauto n 1 0 1 0 00000001\n",
    "verb": "drive v 1 0 1 1 00000004\n",
    "adj": "galore a 1 0 1 0 00000005\nabounding a 1 0 1 0 00000005\n",
    "adv": "fast r 1 0 1 0 00000006\n",
}


@pytest.fixture
def folder(tmp_path):
    for kind in DATA:
        (tmp_path / f"data.{kind}").write_text(LICENCE + DATA[kind])
        (tmp_path / f"index.{kind}").write_text(LICENCE + INDEX[kind])
    return tmp_path


def test_synonyms_are_the_members_of_the_first_senses(folder):
    assert synonyms.members(folder) == {
        # Two senses of a noun; no proper name.
        "car": ["auto", "railway car"],
        "auto": ["car"],
        "drive": ["motor"],
        "galore": ["abounding"],
        "abounding": ["galore"],
        "fast": ["tight"],
    }


def test_the_shipped_table_is_of_words_of_the_texts_and_names_nothing_held_out():
    table = json.loads(captions.EMBEDDED.read_text("utf-8"))
    assert list(table) == sorted(table) and not set(table) & set(synonyms.STOPWORDS.split())
    own = synonyms.embedded_words()
    hidden = synonyms.held_out_words() - own
    assert hidden and own & set(table)
    for found in table.values():
        assert not {word for one in found for word in synonyms.WORD.findall(one)} & hidden


def test_words_are_counted_once_per_text():
    counts = synonyms.words_of(["A red, RED apple!", "apple 5 &amp; pie"])
    assert counts == {"red": 1, "apple": 2, "pie": 1}
