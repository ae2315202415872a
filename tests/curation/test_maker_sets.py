"""Data sets of makers: their classes, sides, label space, and what their records were compared with."""

import json
from collections import Counter

import pytest
from icon_package import spec, write_package, write_wordnet

from intern_jax.core.config import UserError
from intern_jax.curation.decontaminate import decontaminate
from intern_jax.curation.pack import pack
from intern_jax.curation.pipeline import run
from intern_jax.curation.running import engine
from intern_jax.curation.sets.makers import maker_sets
from intern_jax.curation.splits import split_pool
from intern_jax.data.sources.cut import PoolRows, open_set

LOCAL = engine.Local(1)
STYLES = ("", "-outline", "-fill", "-line")
OFTEN = ("cat", "car", "star")


def drawn(*names: str) -> list[str]:
    return [name + style for name in names for style in STYLES]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(pool, index of its splits, wordnet): two makers draw concepts four times, a third one each of them once."""
    folder = tmp_path_factory.mktemp("sets")
    sets = {
        "black": [*drawn(*OFTEN), "moon"],
        "pen": drawn("cat", "dog"),
        "few": ["cat", "dog", "sun"],
    }
    package = write_package(folder / "package", sets)
    pool = pack(spec(package), folder / "pool", runner=LOCAL)
    wordnet = str(write_wordnet(folder / "wordnet"))
    split = split_pool(pool.folder, folder / "split", wordnet=wordnet, maker_share=0.0, concepts=0)
    rows = {"test": spec(package, sets=["few"], name="test")}
    return (
        pool,
        decontaminate(pool.folder, folder / "kept", split.folder, rows=rows, runner=LOCAL),
        wordnet,
    )


def cut(world, out, **settings):
    pool, index, wordnet = world
    given = {"min_pictures": 3, "min_classes": 2, "test_share": 0.25} | settings
    path = maker_sets(pool.folder, out, index.folder, wordnet=wordnet, **given)
    return json.loads(path.read_text()), json.loads((out / "space.json").read_text())


def test_a_maker_is_a_set_of_the_concepts_that_it_drew_often(world, tmp_path):
    told, space = cut(world, tmp_path)
    assert {name: facts["classes"] for name, facts in told.items()} == {
        "maker_black": 3,
        "maker_pen": 2,
    }
    rows = {name: PoolRows(tmp_path / "sets" / f"{name}.npz", "train") for name in told}
    assert rows["maker_black"].classes == ("car", "cat", "star")
    for name, facts in told.items():
        test = PoolRows(tmp_path / "sets" / f"{name}.npz", "test")
        assert (len(rows[name]), len(test)) == (facts["train"], facts["test"])
        assert set(Counter(test.labels.tolist()).values()) == {1}
        assert not set(test.keys) & set(rows[name].keys)
        for i in range(len(test)):
            key, label = test[i]["key"], test[i]["label"]
            assert key.split(":")[1].split("-")[0] == test.classes[label]
    ink, pen = (dict(zip(rows[n].classes, space[n], strict=True)) for n in told)
    assert ink["cat"] == pen["cat"] and len({*ink.values(), *pen.values()}) == 4


def test_what_its_records_were_compared_with_is_known(world, tmp_path):
    cut(world, tmp_path)
    row = PoolRows(tmp_path / "sets" / "maker_black.npz", "train")
    assert set(row.decontaminated()) == {"test"} and row.unseen() == []


def test_the_largest_makers_stay_and_too_few_are_told(world, tmp_path):
    told, _ = cut(world, tmp_path, sets=1, most_classes=2)
    assert list(told) == ["maker_black"] and told["maker_black"]["classes"] == 2
    with pytest.raises(
        UserError, match=r"no maker has 9 concepts of 3 pictures; lower one of them"
    ):
        cut(world, tmp_path, min_classes=9)


def test_a_pipeline_makes_sets_and_a_source_opens_them(world, tmp_path):
    pool, _, wordnet = world
    curation = "intern_jax.curation"
    config = {
        "steps": ["split", "decontaminate", "sets"],
        "split": {
            "fn": f"{curation}.splits:split_pool",
            "pool": str(pool.folder),
            **{"wordnet": wordnet, "maker_share": 0.0, "concepts": 0},
        },
        "decontaminate": {
            "fn": f"{curation}.decontaminate:decontaminate",
            **{"pool": str(pool.folder), "concepts": ("sun",)},
        },
        "sets": {
            "fn": f"{curation}.sets.makers:maker_sets",
            "pool": str(pool.folder),
            **{"wordnet": wordnet, "min_pictures": 4, "min_classes": 2},
        },
    }
    run(config, tmp_path, LOCAL)
    source = open_set("maker_pen", tmp_path)
    assert source.name == "maker_pen" and source.classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"no set 'ink'; there are: maker_black"):
        open_set("ink", tmp_path)
