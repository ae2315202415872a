"""Tars that Python's own tarfile wrote, read at random; hostile members are counted and never followed."""

import contextlib
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.open import tars, texts, webdataset
from intern_jax.data.open.opening import open_data
from intern_jax.data.schema.sample import CorruptSample, check


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, None


def header(name, size, kind=b"0"):
    """A header by hand, with any size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    raw = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    raw[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def padded(data):
    return data + b"\0" * (-len(data) % 512)


@pytest.fixture
def shards(tmp_path, png, write_tar):
    """Two shards, of the default format (times with fractions give POSIX headers) and of GNU's."""
    long = "a_very_long_folder/" * 8
    for number, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        members = []
        for i in range(4):
            stem = f"./{long}{number}{i}"
            notes = {"caption": f"caption {i}", "license": "CC0", "author": "Ann", "label": i % 2}
            members += [(f"{stem}.png", png(10 * number + i)), (f"{stem}.seg.png", b"ignored")]
            members += [(f"{stem}.json", json.dumps(notes).encode())]
            members += [(f"{stem}.TXT", b"one\ntwo")] if i < 2 else []
        members = [(tarfile.TarInfo(name), data) for name, data in members]
        for info, _ in members:
            info.mtime = 1.25
        write_tar(tmp_path / f"shard-00{number}.tar", members, format=form)
    return tmp_path


def test_samples_against_tarfile(shards, pixels):
    source = open_data(shards)
    assert len(source) == 8 and source.shards == [4, 4] and not source.refused
    assert source.family == "pairs" and source.classes == ("0", "1")
    assert source.labels.tolist() == [0, 1] * 4
    assert source.keys[5].startswith("shard-001/a_very_long_folder") and source.keys[5].endswith(
        "/11"
    )
    sample = check(source[5], "set", 2)
    np.testing.assert_array_equal(sample["image"], pixels(11))
    assert sample["texts"] == ["one", "two", "caption 1"] and sample["label"] == 1
    assert source[3]["texts"] == ["caption 3"]
    assert source.origin(3) | {"name": ""} == {"licence": "CC0", "author": "Ann", "name": ""}
    for file in source.files():
        with tarfile.open(file) as tar:
            theirs = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar}
        ours = {m.name: (m.offset, m.size) for m in tars.scan(file)}
        assert ours == theirs


def test_patterns_and_threads(shards):
    source = open_data(shards / "shard-{000..001}.tar")
    assert source.keys == open_data(shards / "shard-*.tar").keys == open_data(shards).keys
    assert len(open_data(shards / "shard-001.tar")) == 4
    with pytest.raises(UserError, match=r"shard-002.tar: no such file, though .* names it"):
        open_data(shards / "shard-{000..002}.tar")
    alone = [source[i] for i in range(8)]
    order = np.random.default_rng(0).integers(0, 8, 200)
    with ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(source.__getitem__, order), strict=True):
            np.testing.assert_array_equal(sample["image"], alone[i]["image"])
            assert sample["texts"] == alone[i]["texts"]


def test_the_index_is_kept_and_made_again(shards, png, write_tar, monkeypatch):
    path = shards / "shard-000.tar"
    first = open_data(path)
    place = shards / "shard-000.tar.index.json"
    assert place.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "make_index", lambda _: pytest.fail("indexed again"))
        again = open_data(path)
    assert again.keys == first.keys and again.labels.tolist() == first.labels.tolist()
    assert again.fingerprint() == first.fingerprint() and again.examples() == first.examples()
    write_tar(path, [("new.png", png(0)), ("new.txt", b"new")])
    changed = open_data(path)
    assert changed.keys == ["shard-000/new"] and changed.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"spans": [0, 10**12, 0, -1, 0, -1] * 4},
        {"spans": [-5, 10, 0, -1, 0, -1] * 4},
        {"spans": [2**70, 1, 0, -1, 0, -1] * 4},
        {"spans": [0, 1]},
        {"stems": [1, 2, 3, 4]},
        {"labels": [[], [], [], []]},
        {"refused": []},
        {"stamp": None},
    ],
)
def test_a_wrong_index_is_not_believed(shards, change):
    path = shards / "shard-000.tar"
    keys = open_data(path).keys
    place = shards / "shard-000.tar.index.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    source = open_data(path)
    assert source.keys == keys and source[3]["texts"] == ["caption 3"]
    place.write_text("[" * 100_000)
    assert open_data(path).keys == keys


def test_a_folder_that_cannot_be_written(shards, monkeypatch):
    def refuse(*_arguments, **_settings):
        raise PermissionError

    monkeypatch.setattr(webdataset.tempfile, "mkstemp", refuse)
    assert len(open_data(shards)) == 8
    assert not list(shards.glob("*.json"))


def test_hostile_members_are_counted(tmp_path, png, write_tar):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    good = [("good.png", png(0)), ("good.txt", b"fine")]
    evil = [
        ("../up.png", png(1)),
        ("a/../../up.txt", b"x"),
        ("/etc/absolute.png", png(1)),
        special("good.caption", tarfile.SYMTYPE, str(secret)),
        special("hard.png", tarfile.LNKTYPE, "good.png"),
        special("null.png", tarfile.CHRTYPE),
        special("disk.png", tarfile.BLKTYPE),
        special("pipe.png", tarfile.FIFOTYPE),
        special("folder.png", tarfile.DIRTYPE),
        ("good.png", png(2)),
        ("good.json", b"{" * 100_000),
        ("good.cls", b"x" * 5000),
        ("long.txt", b"x" * (texts.CAPTION_BYTES + 1)),
        ("only.txt", b"no picture"),
    ]
    path = write_tar(
        tmp_path / "evil.tar", good + evil + [("last.png", png(3)), ("last.txt", b"l")]
    )
    source = open_data(path)
    assert source.keys == ["evil/good", "evil/last"] and source[0]["texts"] == ["fine"]
    assert source.refused == {
        "name that leads outside": 3,
        "link": 2,
        "device": 3,
        "second member of that name": 1,
        "damaged json": 1,
        "too many bytes of cls": 1,
        "too many bytes of txt": 1,
        "no picture of that stem": 1,
    }
    assert sorted(os.listdir(tmp_path)) == ["evil.tar", "evil.tar.index.json", "secret.txt"]


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        (header("big.png", 8**11 - 1), "ends beyond the file"),
        (header("big.png", b"\x80" + b"\0" * 3 + b"\xff" * 8), "ends beyond the file"),
        (header("neg.png", b"\xff" * 12), "damaged header, and all after it"),
        (header("bad.png", b"12x45678901\0"), "damaged header, and all after it"),
        (header("cut.png", 5000) + b"x" * 700, "ends beyond the file"),
        (header("name", 2**30, b"L"), "too long header, and all after it"),
        (header("pax", 2**30, b"x"), "too long header, and all after it"),
        (header("pax", 20, b"x") + padded(b"20 size=-99999999999"), "ends without its last block"),
        (b"\x07" * 512, "damaged header, and all after it"),
        (b"", "ends without its last block"),
    ],
)
def test_damaged_tails(tmp_path, png, tail, cause):
    head = header("a.png", len(png(0))) + padded(png(0)) + header("a.txt", 3) + padded(b"one")
    (tmp_path / "set.tar").write_bytes(head + tail)
    source = open_data(tmp_path / "set.tar")
    assert len(source) == 1 and source[0]["texts"] == ["one"]
    assert source.refused == {cause: 1}


def test_sparse_members_are_refused(tmp_path, png):
    old = bytearray(header("old.png", 512, b"S"))
    old[482] = 1  # its map goes on in one more block
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    field = b"22 GNU.sparse.major=1\n"
    parts = [
        *(bytes(old), b"\0" * 512, b"x" * 512),
        *(header("pax", len(field), b"x"), padded(field), header("new.png", 3), padded(b"abc")),
        *(
            header("a.png", len(png(0))),
            padded(png(0)),
            header("a.cls", 1),
            padded(b"3"),
            b"\0" * 1024,
        ),
    ]
    (tmp_path / "set.tar").write_bytes(b"".join(parts))
    source = open_data(tmp_path / "set.tar")
    assert source.keys == ["set/a"] and source.refused == {"sparse file": 2}
    assert source.family == "classification" and source[0]["texts"] == ["3"]


def test_random_damage_never_crashes(shards):
    whole = (shards / "shard-000.tar").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(data), 30)
        data[where] = rng.integers(0, 256, 30)
        path = shards / f"damaged-{number}.tar"
        path.write_bytes(data[: rng.integers(1, len(data))].tobytes())
        try:
            source = open_data(path)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        for i in range(len(source)):
            with contextlib.suppress(CorruptSample):
                " ".join(source[i].get("texts", [])).encode()
        path.unlink()


def test_what_is_no_plain_tar(tmp_path, png, write_tar):
    path = write_tar(tmp_path / "set.tar.gz", [("a.png", png(0))])
    with pytest.raises(UserError, match=r"set.tar.gz: compressed.*uncompress it once to a .tar"):
        open_data(path, "webdataset")
    for mode, what in (("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")):
        with tarfile.open(tmp_path / "set.tar", f"w:{mode}") as tar:
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
        with pytest.raises(UserError, match=rf"set.tar: compressed \({what}\)"):
            open_data(tmp_path / "set.tar")
    for content in (b"", b"short", b"x" * 5000):
        (tmp_path / "set.tar").write_bytes(content)
        with pytest.raises(UserError, match="no tar file"):
            open_data(tmp_path / "set.tar")
    (tmp_path / "set.tar").write_bytes(b"\0" * 1024)
    with pytest.raises(UserError, match="no picture in the tar"):
        open_data(tmp_path / "set.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="not recognised; found: a file"):
        open_data(tmp_path / "pipe.tar")


def test_bad_members_are_damaged_samples(tmp_path, write_tar, png):
    members = [
        ("a.png", b""),
        ("b.png", b"text"),
        ("c.png", png(0)),
        ("d.png", png(1)),
        ("d.txt", b"d"),
    ]
    source = open_data(write_tar(tmp_path / "set.tar", members))
    for index, cause in enumerate(("empty file", "unknown format", "no caption")):
        with pytest.raises(CorruptSample) as fault:
            source[index]
        assert fault.value.cause == cause
    assert source[3]["texts"] == ["d"]
    os.truncate(tmp_path / "set.tar", 600)
    with pytest.raises(CorruptSample, match="truncated"):
        source[3]
