"""Apache Beam writes the files that the local runner writes: byte by byte, with one worker and with two.

Run by `make test-beam` in Beam's own environment; the local runner runs there too, since another Pillow may write other
WebP files.
"""

import hashlib
import os
import pathlib
import sys

import pytest

from intern_jax.core.config import UserError
from intern_jax.curation.pipeline import run
from intern_jax.curation.running import engine

pytestmark = [pytest.mark.beam, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("apache_beam")

HERE = pathlib.Path(__file__).parent
RECORDS = 5_000


@pytest.fixture(scope="module", autouse=True)
def importable():
    """What workers of Beam and of the local runner import of these tests."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), before])
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    yield
    os.environ["PYTHONPATH"] = before
    del sys.path[:2]


def digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def steps(folder: pathlib.Path) -> dict:
    """A pipeline of every kind of step, on copies of few drawings under many names."""
    from icon_package import spec, write_package, write_wordnet

    words = ["cat", "tabby", "car", "glass", "arrow", "home", "star", "sun", "moon", "tree"]
    names = {
        prefix: [f"{word}-{i:03d}x" if i else word for word in words for i in range(RECORDS // 50)]
        for prefix in ("ink", "paint", "a", "b", "c")
    }
    package = write_package(folder / "package", names)
    wordnet = str(write_wordnet(folder / "wordnet"))
    curation = "intern_jax.curation"
    steps = [
        {
            "name": "pack",
            "fn": f"{curation}.pack:pack",
            "source": spec(package),
            "per_part": 700,
        },
        {"name": "filter", "fn": f"{curation}.filters:filter_pool", "without": ["blank"]},
        {"name": "dedup", "fn": f"{curation}.duplicates:drop_duplicates"},
        {
            "name": "split",
            "fn": f"{curation}.splits:split_pool",
            "wordnet": wordnet,
            "concepts": 1,
            "most_named": 1e9,
            "min_makers": 2,
            "min_records": 2,
            "min_test": 1,
            "min_train": 0,
        },
        {
            "name": "decontaminate",
            "fn": f"{curation}.decontaminate:decontaminate",
            "rows": {"test": {**spec(package), "sets": ["a"]}},
            "concepts": ["cat"],
            "wordnet": wordnet,
            "rings": True,
            "split": "pretrain",
        },
        {"name": "tokenizer", "fn": f"{curation}.tokenizer:train_tokenizer", "size": 400},
        {"name": "report", "fn": f"{curation}.report:write_report"},
        {"name": "card", "fn": f"{curation}.card:write_card"},
    ]
    described = {s["name"]: {k: v for k, v in s.items() if k != "name"} for s in steps}
    return {"steps": [s["name"] for s in steps], **described}


def test_all_runners_write_the_same_files(tmp_path):
    from intern_jax.curation.running.beam import Beam

    config = steps(tmp_path)
    found = {}
    for name, runner in (
        ("local", engine.Local(2)),
        ("beam1", Beam(workers=1)),
        ("beam2", Beam(workers=2)),
    ):
        workdir = tmp_path / "work"
        made = run(config, workdir, runner)
        assert made["steps"][0]["records"] == RECORDS
        found[name] = digests(workdir)
        # The same paths again: an index names its pool's folder.
        workdir.rename(tmp_path / name)
    assert len(found["local"]) > 50
    assert found["beam1"] == found["local"]
    assert found["beam2"] == found["local"]


def test_a_fault_of_a_worker_is_one_line(tmp_path):
    import test_engine

    from intern_jax.curation.running.beam import Beam

    with pytest.raises(UserError, match="the disk is full") as told:
        Beam(workers=2).run(engine.Each("part", 5, test_engine.fill), tmp_path)
    assert "\n" not in str(told.value) and "while running" not in str(told.value)
    assert engine.part_counts(tmp_path, "part", 0) is not None
