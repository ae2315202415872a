"""Parquet files that pyarrow wrote, read at random; wrong columns are one line, damage is a damaged sample."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.open import parquet
from intern_jax.data.open.opening import open_data
from intern_jax.data.schema.sample import CorruptSample, check


def fails(said, path, **settings):
    with pytest.raises(UserError, match=said) as error:
        open_data(path, **settings)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def damaged(source, index, cause):
    with pytest.raises(CorruptSample) as fault:
        source[index]
    assert fault.value.cause == cause


@pytest.fixture
def shards(tmp_path, png):
    """Hugging Face's layout: data/train-0000N-of-00002.parquet, names of classes in the metadata."""
    (tmp_path / "data").mkdir()
    names = {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}
    meta = {"huggingface": json.dumps({"info": {"features": {"label": names}}})}
    for number in range(2):
        rows = range(100 * number, 100 * number + 100)
        table = pa.table(
            {
                "image": [{"bytes": png(i), "path": f"in/{i}.png"} for i in rows],
                "text": [[f"text {i}", "more"] for i in rows],
                "label": [i % 2 for i in rows],
                "license": ["CC0"] * 100,
                "extra": [{"a": 1}] * 100,
            }
        )
        path = tmp_path / "data" / f"train-0000{number}-of-00002.parquet"
        pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=70)
    return tmp_path


def test_samples_against_pyarrow(shards, pixels):
    source = open_data(shards)
    assert len(source) == 200 and source.shards == [70, 30, 70, 30]
    assert source.family == "pairs" and source.classes == ("cat", "dog", "owl")
    assert source.labels.tolist() == [i % 2 for i in range(200)]
    assert source.keys[0] == "train-00000-of-00002/0" and source.keys[199].endswith("1-of-00002/99")
    for index in (0, 69, 70, 99, 100, 133, 170, 199):
        sample = check(source[index], "set", 3)
        np.testing.assert_array_equal(sample["image"], pixels(index))
        assert sample["texts"] == [f"text {index}", "more"] and sample["label"] == index % 2
        assert source.origin(index) == {"licence": "CC0", "name": f"{index}.png"}
    with pytest.raises(IndexError):
        source[200]


def test_threads_and_few_row_groups_in_memory(shards):
    source = open_data(str(shards / "data" / "train-*.parquet"))
    alone = [source[i]["image"] for i in range(200)]
    order = np.random.default_rng(0).permutation(200)
    with ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(source.__getitem__, order), strict=True):
            np.testing.assert_array_equal(sample["image"], alone[i])
    assert len(source._cache) <= parquet.CACHE_GROUPS


def test_the_cache_is_bounded_by_bytes(shards, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1000)
    source = open_data(shards)
    for index in (0, 80, 150):
        source[index]
        assert len(source._cache) == 1
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1000)
    with pytest.raises(UserError, match=r"row group 1 needs more than .*row_group_size"):
        source[199]


def test_a_dictionary_that_would_fill_the_memory(tmp_path, monkeypatch):
    """One value of 1 MiB, 10,000 times: a small file, 10 GB in memory."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000), pa.array([b"x" * (1 << 20)]))
    pq.write_table(
        pa.table({"image": column}),
        tmp_path / "a.parquet",
        store_schema=False,
        dictionary_pagesize_limit=1 << 26,
    )
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 22
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1 << 26)
    source = open_data(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="needs more than"):
        source[3]


def test_text_that_is_no_utf8(tmp_path, png):
    offsets = pa.py_buffer(np.asarray([0, 3, 6], np.int32))
    column = pa.Array.from_buffers(
        pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff\0\xed\xa0\x80")]
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(0)] * 2, "text": column, "source": column}), path)
    source = open_data(path)
    assert source[0]["texts"] == ["a�"] and source.origin(0) == {"source": "a�"}
    assert source[1]["texts"] == ["���"]
    pq.write_table(pa.table({"image": [png(0)] * 2, "label": column}), path)
    fails("column 'label' cannot be read", path)


def test_forms_of_columns(tmp_path, png, pixels):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_bytes(png(0))
    path = tmp_path / "a.parquet"
    forms = [
        {
            "image": pa.array([png(0)], pa.large_binary()),
            "caption": pa.array(["a"], pa.large_string()),
        },
        {"image": pa.array(["in/0.png"]), "text": pa.array([["a"]], pa.large_list(pa.string()))},
        {"file_name": pa.array(["in/0.png"]).dictionary_encode(), "label": ["a"]},
        {"image": [{"bytes": None, "path": "in/0.png"}], "caption": pa.array([b"a"])},
        {"image": [{"bytes": png(0), "path": None}], "label": pa.array(["a"]).dictionary_encode()},
    ]
    for columns in forms:
        pq.write_table(pa.table(columns), path)
        source = open_data(path)
        sample = check(source[0], "set")
        np.testing.assert_array_equal(sample["image"], pixels(0))
        assert sample["texts"] == ["a"] and (source.classes == ("a",)) == ("label" in columns)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [1], "text": ["a"]}, "column 'image' has int64; write bytes"),
        ({"image": [[b"a"]]}, "column 'image' has list<.*; write bytes"),
        ({"image": [{"data": b"a"}]}, "column 'image' has struct<data: binary>; write bytes"),
        ({"image": [{"bytes": 3, "path": "a"}]}, "column 'image' has struct<.*; write bytes"),
        ({"image": [b"a"], "text": [3.5]}, "column 'text' has double; write captions as text"),
        ({"image": [b"a"], "caption": [[1, 2]]}, "column 'caption' has list<.*; write captions"),
        ({"image": [b"a"], "label": [[1]]}, "column 'label' has list<.*; write labels as whole"),
        ({"image": [b"a"], "label": [0.5]}, "column 'label' has double; write labels as whole"),
        ({"url": ["http://a"], "caption": ["a"]}, "no picture in the columns url, caption"),
        ({"image": pa.array([], pa.binary())}, "no row"),
    ],
)
def test_wrong_types_are_one_line(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    fails(said, tmp_path / "a.parquet")


def test_nulls_and_paths_that_lead_outside(tmp_path, png):
    images = [png(0), None, png(2), png(3)]
    table = {"image": images, "text": ["a", "b", None, "\x00"], "label": [1, 2, None, 1]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    source = open_data(tmp_path / "a.parquet")
    assert source.labels is None and source.classes == ("1", "2") and source[0]["texts"] == ["a"]
    damaged(source, 1, "no picture")
    damaged(source, 2, "no caption")
    assert source[3]["texts"] == ["1"]
    (tmp_path / "in").mkdir()
    (tmp_path / "up.png").write_bytes(png(0))
    names = ["../up.png", str(tmp_path / "up.png"), "gone.png", "\x00"]
    pq.write_table(pa.table({"path": names, "text": ["a"] * 4}), tmp_path / "in" / "b.parquet")
    source = open_data(tmp_path / "in" / "b.parquet")
    for index, cause in enumerate(("path that leads outside",) * 2 + ("missing file",)):
        damaged(source, index, cause)
    damaged(source, 3, "path that leads outside")
    assert open_data(tmp_path / "in" / "b.parquet", root=tmp_path)[1]["texts"] == ["a"]


def test_labels_outside_the_names(shards, png):
    names = {"label": {"names": ["cat"]}}
    meta = {"huggingface": json.dumps({"info": {"features": names}})}
    table = pa.table({"image": [png(0)] * 2, "label": [0, 1]}).replace_schema_metadata(meta)
    pq.write_table(table, shards / "a.parquet")
    fails(r"column 'label': 1 is outside 0\.\.0", shards / "a.parquet")
    table = pa.table({"image": [png(0)] * 2, "label": [0, -1]}).replace_schema_metadata(meta)
    pq.write_table(table, shards / "a.parquet")
    assert open_data(shards / "a.parquet").labels is None


def test_damaged_files(tmp_path, png):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(i) for i in range(50)], "text": ["a"] * 50}), path)
    whole = path.read_bytes()
    for data in (
        whole[:-1],
        whole[: len(whole) // 2],
        b"PAR1",
        b"",
        b"PAR1" + b"\xff" * 100 + b"PAR1",
    ):
        path.write_bytes(data)
        fails("no readable Parquet file", path)
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            source = open_data(path)
            for i in range(min(len(source), 50)):
                try:
                    source[i]
                except CorruptSample as fault:
                    assert "\n" not in str(fault)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_changed_file_changes_the_fingerprint(shards, png):
    first = open_data(shards)
    before, examples = first.fingerprint(), first.examples()
    assert before == open_data(shards).fingerprint()
    path = first.files()[1]
    pq.write_table(
        pa.table({"image": [png(0)] * 100, "text": ["a"] * 100, "label": [0] * 100}), path
    )
    after = open_data(shards)
    assert after.fingerprint() != before
    same = [a == b for a, b in zip(examples, after.examples(), strict=True)]
    assert same == [True] * 100 + [False] * 100
