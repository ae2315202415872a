"""ArrayRecord sources of many files: what is kept, what is opened when, and what a mistake says."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from intern_jax.core.config import UserError
from intern_jax.data.batches.mixture import build_group
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.schema.source import Source
from intern_jax.data.sources import array_record as array_record_source
from intern_jax.data.sources.array_record import ArrayRecordSource, Keys, write_manifest
from intern_jax.data.sources.subset import Subset

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.bench import records  # noqa: E402

COUNTS = (30, 0, 7, 41)
TOTAL = sum(COUNTS)


def read(record):
    number = int.from_bytes(record, "little")
    return {"image": np.full((2, 2, 3), number, np.uint8), "label": number}


def number(sample, _rng):
    return {"number": np.int32(sample["label"])}


def write(path, values):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for value in values:
        writer.write(value.to_bytes(8, "little"))
    writer.close()


@pytest.fixture
def folder(tmp_path):
    """Files of several sizes whose records count on through all of them."""
    folder = tmp_path / "records"
    folder.mkdir()
    first = 0
    for i, count in enumerate(COUNTS):
        write(folder / f"part-{i}.array_record", range(first, first + count))
        first += count
    return folder


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that are opened from now on."""
    names = []

    def watched(file):
        names.append(file.name)
        return opener(file)

    opener = array_record_source._open
    monkeypatch.setattr(array_record_source, "_open", watched)
    return names


def test_a_folder_a_pattern_and_a_list_are_one_source(folder):
    files = sorted(folder.iterdir())
    for paths in (folder, f"{folder}/part-*", files, [str(folder)]):
        source = ArrayRecordSource(paths, read, name="many")
        assert isinstance(source, Source) and len(source) == TOTAL
        assert source.shards == list(COUNTS)
        assert [source[i]["label"] for i in range(TOTAL)] == list(range(TOTAL))
        assert source.keys == [f"many/{i}" for i in range(TOTAL)]
        assert source[41]["key"] == "many/41"
    assert source[-1]["label"] == TOTAL - 1
    with pytest.raises(IndexError):
        source[TOTAL]


def test_with_a_manifest_a_file_is_opened_when_it_is_read(folder, opened):
    assert len(ArrayRecordSource(folder, read)) == TOTAL
    assert sorted(set(opened)) == [f"part-{i}.array_record" for i in range(4)]
    path = write_manifest(folder)
    entry = json.loads(path.read_text())["part-2.array_record"]
    assert entry == {"records": 7, "bytes": (folder / "part-2.array_record").stat().st_size}
    opened.clear()
    source = ArrayRecordSource(folder, read)
    assert len(source) == TOTAL and source.shards == list(COUNTS) and not opened
    assert source[33]["label"] == 33 and source[34]["label"] == 34
    assert opened == ["part-2.array_record"]


def test_a_manifest_of_other_files_is_not_believed(folder, opened, caplog):
    path = write_manifest(folder)
    content = json.loads(path.read_text())
    content["part-0.array_record"] = {"records": 5, "bytes": 10}
    del content["part-3.array_record"]
    path.write_text(json.dumps(content))
    opened.clear()
    assert ArrayRecordSource(folder, read).shards == list(COUNTS)
    assert sorted(opened) == ["part-0.array_record", "part-3.array_record"]
    assert "part-0.array_record: another size than records.json says" in caplog.text
    for bad in ("[1]", "{", '{"part-0.array_record": 3}', '{"x": {"records": -1, "bytes": 2}}'):
        path.write_text(bad)
        with pytest.raises(UserError, match=r"records\.json.*again"):
            ArrayRecordSource(folder, read)


def test_only_so_many_files_stay_open(folder, opened, monkeypatch):
    monkeypatch.setattr(array_record_source, "_most_open_files", lambda: 2)
    monkeypatch.setattr(array_record_source, "READERS", array_record_source._Readers())
    # Of both sources together: the limit is the process's.
    one, two = ArrayRecordSource(folder, read), ArrayRecordSource(folder, read)
    opened.clear()
    for source, index in ((one, 0), (two, 31), (one, 1), (two, 50), (one, 2), (two, 32)):
        assert source[index]["label"] == index
    assert [int(name[5]) for name in opened] == [0, 2, 3, 2]
    assert len(array_record_source.READERS._open) == 2


def test_a_file_that_was_written_anew_is_opened_anew(tmp_path):
    path = tmp_path / "a.array_record"
    write(path, range(3))
    assert ArrayRecordSource(path, read)[1]["label"] == 1
    path.unlink()
    write(path, range(5, 8))
    assert ArrayRecordSource(path, read)[1]["label"] == 6


FEW = """
import resource, sys
import numpy as np
from intern_jax.data.sources.array_record import ArrayRecordSource

picture = np.zeros((8, 8, 3), np.uint8)
def decode(data):
    return {"image": picture, "label": int.from_bytes(data, "little")}

folder = sys.argv[1]
opened = [ArrayRecordSource(f"{folder}/s{n}-*", decode, name=f"s{n}") for n in range(4)]
held = []
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
for source in opened:
    for index in range(len(source)):
        assert source[index]["label"] == index
        # Other parts of the program take what they need, and all but a few of the rest.
        while sys.argv[2] == "held" and len(held) < 60:
            held.append(open("/dev/null"))
print("all read")
"""


@pytest.mark.parametrize("others", ["none", "held"])
def test_sources_of_many_files_keep_within_the_limit_of_open_files(tmp_path, others):
    for source in range(4):
        for shard in range(40):
            write(tmp_path / f"s{source}-{shard:03d}.array_record", [shard])
    run = [sys.executable, "-c", FEW, str(tmp_path), others]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.stdout == "all read\n", done.stderr


def test_opening_makes_keys_and_reads_records_only_where_they_are_used(folder, monkeypatch):
    made = []

    def watched(self, index):
        made.append(index)
        return original(self, index)

    original = Keys.__getitem__
    monkeypatch.setattr(Keys, "__getitem__", watched)
    source = ArrayRecordSource(folder, read)
    half = Subset(Subset(source, np.arange(0, TOTAL, 2)), np.arange(20))
    batches = build_group({"batch_size": 4, "transform": number}, 0, sources=[half])
    assert len(batches[1000]["number"]) == 4
    # A subset of a subset asks three times for a key: of the sample and its check.
    assert len(made) < 50
    assert half.keys == [f"part-0/{4 * i // 2}" for i in range(20)]
    assert half[7]["label"] == 14


def test_columns_are_mapped_from_npy_files(folder, tmp_path):
    rows = np.array([70, 3, 33, 3], np.int32)
    names = np.array([f"picture {row}" for row in rows])
    labels = np.arange(4, dtype=np.int32) % 3
    for name, column in (("rows", rows), ("labels", labels), ("text", names)):
        np.save(tmp_path / f"{name}.npy", column)
    np.save(tmp_path / "bytes.npy", names.astype("S"))
    index = tmp_path / "index.json"
    for keys in ("text.npy", "bytes.npy", names.tolist()):
        content = {"rows": "rows.npy", "labels": "labels.npy", "keys": keys}
        index.write_text(json.dumps(content))
        source = ArrayRecordSource(folder, read, classes=("a", "b", "c"), index=index)
        assert source.keys == names.tolist() and source.shards == [4]
        assert [source[i]["label"] for i in range(4)] == rows.tolist()
        np.testing.assert_array_equal(source.labels, labels)
        assert isinstance(source.labels, np.memmap) and source.labels.dtype == np.int32
        subset = Subset(source, [2, 0])
        assert subset.keys == ["picture 33", "picture 70"] and subset.labels.tolist() == [2, 0]


def test_mistakes_in_an_index(folder, tmp_path):
    np.save(tmp_path / "floats.npy", np.zeros(TOTAL))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    index = tmp_path / "index.json"
    for content, said in (
        ({"rows": [TOTAL]}, r"rows: a row is outside 0\.\.77"),
        ({"rows": [-1]}, "rows: a row is outside"),
        ({"labels": [0, 1]}, "labels: 2 entries for 78 rows"),
        ({"rows": [1, 2], "keys": ["a"]}, "keys: 1 entries for 2 rows"),
        ({"labels": "floats.npy"}, r"labels: float64 \[78\]; give whole numbers"),
        ({"labels": "objects.npy"}, "labels: .*objects.npy is not a readable .npy file"),
        ({"labels": "gone.npy"}, "labels: .*gone.npy is not a readable .npy file"),
        ({"keys": "floats.npy"}, "keys: float64 .*give text of fixed width"),
        ([], "no JSON object; write the index again"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=said) as error:
            ArrayRecordSource(folder, read, index=index)
        assert "\n" not in str(error.value) and str(index) in str(error.value)


def test_mistakes_in_files(folder):
    with pytest.raises(UserError, match=r"train-\*: no such ArrayRecord file"):
        ArrayRecordSource(folder / "train-*", read)
    with pytest.raises(UserError, match="paths: empty"):
        ArrayRecordSource([], read)
    # The library says 0 records of a file that is none, or that is cut off.
    part = folder / "part-3.array_record"
    part.write_bytes(part.read_bytes()[:70000])
    with pytest.raises(UserError, match=r"part-3\.array_record: no readable ArrayRecord file"):
        ArrayRecordSource(folder, read)


def test_a_file_that_is_lost_later_makes_corrupt_samples(folder):
    write_manifest(folder)
    source = ArrayRecordSource(folder, read, name="many")
    part = folder / "part-2.array_record"
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(CorruptSample, match="many/31: unreadable record"):
        source[31]
    os.remove(folder / "part-3.array_record")
    with pytest.raises(CorruptSample, match="many/50: unreadable record"):
        source[50]
    assert source[3]["label"] == 3


def test_the_benchmark_opens_seeks_and_checks_its_rows(tmp_path, capsys):
    folder = tmp_path / "records"
    records.make(folder, shards=20, records=6400)
    here = records.measure(folder, "full", batch=64, seed=0)
    assert here["right"] and here["records"] == 6400
    args = argparse.Namespace(folder=folder, batch=64, seed=0)
    there = records.run(args, "block", manifest=False)
    assert there == json.loads(capsys.readouterr().out)
    assert there["right"] and there["step"] == here["step"]
    assert (folder / "records.json").is_file()
    # The bar for ten million records; most of it is the imports'.
    assert 50 < there["peak_rss_mb"] < 1024
