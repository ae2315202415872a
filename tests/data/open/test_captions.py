"""Text files beside pictures, and tables that list them: what is read, and mistakes in one line."""

import csv
import json
import os
import struct
import zlib

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.open.opening import open_data
from intern_jax.data.schema.sample import CorruptSample, check

# The filter that decoding.py sets does not reach into pytest's own.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path, png):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    return tmp_path


def fails(said, *arguments, **settings):
    with pytest.raises(UserError, match=said) as error:
        open_data(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def damaged(source, index, cause):
    with pytest.raises(CorruptSample) as fault:
        source[index]
    assert fault.value.cause == cause


def test_text_files_beside_pictures(folder, png, pixels):
    (folder / "deep").mkdir()
    (folder / "deep" / "3.png").write_bytes(png(3))
    (folder / "deep" / "3.txt").write_text("a deep one")
    (folder / "0.txt").write_bytes("﻿a cup\n\na Tasse mit Löffel\n".encode())
    (folder / "1.txt").write_bytes(b"\xff\x00 any\x07 bytes\xed\xa0\x80")
    source = open_data(folder)
    assert source.family == "pairs" and source.labels is None and source.classes == ()
    assert source.keys == ["0.png", "1.png", "deep/3.png"]
    assert source.refused == {"no caption": 1}
    sample = check(source[0], "set")
    assert sample["texts"] == ["a cup", "a Tasse mit Löffel"] and set(sample) == {
        "image",
        "texts",
        "key",
    }
    np.testing.assert_array_equal(source[2]["image"], pixels(3))
    assert source[1]["texts"] == ["� any bytes���"]
    assert source.origin(2) == {"name": "3.png"}


def test_bad_text_files_are_damaged_samples(folder):
    (folder / "0.txt").write_bytes(b"x" * (2 << 20))
    (folder / "1.txt").write_bytes(b" \x00\n")
    os.mkfifo(folder / "2.txt")
    source = open_data(folder, "captions")
    damaged(source, 0, "too many bytes")
    damaged(source, 1, "no caption")
    # Opening a pipe would wait for ever.
    assert source.refused == {"no file": 1, "no caption": 1} and len(source) == 2


def test_a_table_against_the_csv_module(folder, pixels):
    rows = [
        ("2.png", 'a "quoted",\r\nsecond line', "dog", "CC0", "Ann", "https://a"),
        ("0.png", "plain", "cat", "", "", ""),
        ("2.png", "another", "dog", "CC0", "", ""),
    ]
    path = folder / "captions.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["File_Name", " caption", "label", "license", "author", "source"])
        writer.writerows(rows)
    for given in (folder, path):
        source = open_data(given)
        assert source.keys == ["0.png", "2.png"] and source.classes == ("cat", "dog")
        assert source.labels.tolist() == [0, 1] and source.family == "pairs"
        sample = check(source[1], "set", 2)
        assert sample["texts"] == ['a "quoted", second line', "another"] and sample["label"] == 1
        np.testing.assert_array_equal(sample["image"], pixels(2))
        expected = {"source": "https://a", "licence": "CC0", "author": "Ann", "name": "2.png"}
        assert source.origin(1) == expected and source.origin(0) == {"name": "0.png"}


def test_tabs_and_json_lines(folder):
    (folder / "list.tsv").write_text('path\ttext\n0.png\ta "b\n1.png\tc"\n')
    assert open_data(folder / "list.tsv")[0]["texts"] == ['a "b']  # a quote inside a field is text
    lines = [
        {"image": "1.png", "texts": ["a", "b\ud83d"], "label": 7},
        {"image": "0.png", "text": "c"},
    ]
    (folder / "list.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    source = open_data(folder / "list.jsonl")
    assert source.keys == ["0.png", "1.png"] and source[1]["texts"] == ["a", "b"]
    assert source.labels is None and source.classes == ("7",)
    assert source[1]["label"] == 0 and "label" not in source[0]


def test_labels_alone_make_a_classification_set(folder):
    (folder / "list.csv").write_text("file,label\n0.png,red_cup\n1.png,plate\n")
    source = open_data(folder / "list.csv")
    assert source.family == "classification" and source.classes == ("plate", "red_cup")
    assert source[0]["texts"] == ["red cup"] and source.labels.tolist() == [1, 0]
    ordered = open_data(folder / "list.csv", classes=("red_cup", "spoon", "plate"))
    assert ordered.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("caption,licence\na,b\n", r"first line has \['caption', 'licence'\]; a table needs"),
        ("url,caption\nhttp://a,b\n", "a table needs a header"),
        ("", "a table needs a header"),
        ("file,caption\n", "no row"),
        ("file,caption\n0.png,a\n1.png\n", "line 3: 1 columns, the header has 2"),
        ("file,caption\n0.png,a,b\n", "line 2: 3 columns, the header has 2"),
        ("file,caption\n,a\n", "line 2: names no picture"),
        ("file,caption\n../0.png,a\n", "leads out of .* `root`"),
        ("file,caption\n/etc/passwd,a\n", "leads out of .* `root`"),
        ("file,caption\n0.png\x00.txt,a\n", None),
        ('file,caption\n0.png,"' + "x" * 200_000 + '"\n', "line 2: field larger than"),
        ('file,caption\n0.png,"never closed\n' + "1.png,a\n" * 50_000, "field larger than"),
        ("file,caption\n0.png," + "x" * (5 << 20), "line 2: longer than"),
        ("file,label\n0.png,a\n0.png,b\n", "line 3: '0.png' has a second label 'b'"),
    ],
)
def test_mistakes_in_a_table(folder, content, said):
    path = folder / "captions.csv"
    path.write_text(content)
    if said is None:
        damaged(open_data(path), 0, "missing file")
    else:
        assert str(path) in fails(said, path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file": "1.png", "text": ', "line 2: no JSON object"),
        ('["1.png"]', "line 2: no JSON object"),
        ("[" * 100_000, "line 2: no JSON object"),
        ('{"file": "1.png", "text": "a", "label": 1' + "0" * 5000 + "}", "line 2: no JSON object"),
        ('{"file": 3, "text": "a"}', "line 2: names no picture"),
        ('{"text": "a"}', "a record needs file_name"),
        ('{"file": "1.png", "label": [1]}', "line 2: a label is text or a whole number"),
        ('{"file": "a/../../1.png", "text": "a"}', "leads out of"),
    ],
)
def test_a_broken_line_is_named(folder, line, said):
    path = folder / "list.jsonl"
    path.write_text('{"file": "0.png", "text": "a"}\n' + line + "\n")
    assert str(path) in fails(said, path)


def test_root_allows_paths_inside_it(folder):
    lists = folder / "lists"
    lists.mkdir()
    path = lists / "list.csv"
    path.write_text(f"file,caption\nlists/../0.png,a\n{folder}/1.png,b\n2.png,c\n")
    assert open_data(path, root=folder).keys == ["0.png", "1.png", "2.png"]
    path.write_text("file,caption\n../0.png,a\n")
    fails("leads out of", path, root=folder)
    fails("no such folder", path, root=folder / "gone")


def test_bad_pictures_are_damaged_samples(folder):
    huge = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    whole = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", huge)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    (folder / "huge.png").write_bytes(whole)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    names = ("empty", "gone", "huge", "text")
    (folder / "list.csv").write_text("file,caption\n" + "".join(f"{n}.png,a\n" for n in names))
    source = open_data(folder / "list.csv")
    causes = ("empty file", "missing file", "too many pixels", "unknown format")
    for index, cause in enumerate(causes):
        damaged(source, index, cause)


def test_a_table_that_changes_while_it_is_open(folder):
    path = folder / "list.csv"
    path.write_text("file,caption\n0.png,a\n1.png,b\n")
    source = open_data(path)
    path.write_text("file,caption\n1.png,b\n0.png,a\n")
    damaged(source, 0, "changed table")
    path.unlink()
    damaged(source, 1, "changed table")


def test_a_missing_table_and_two_of_them(folder):
    fails("no such file", folder / "gone.csv", "captions")
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("file,caption\n0.png,a\n")
    fails("several tables of pictures", folder)
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n")
    assert len(open_data(folder)) == 2
