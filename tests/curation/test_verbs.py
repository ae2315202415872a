"""The command line: a folder of pictures, damaged ones among them, becomes a set, step by step."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from intern_jax.__main__ import main
from intern_jax.data.make import text
from intern_jax.data.sources.pool import PoolSource

pytestmark = pytest.mark.filterwarnings("ignore:.*decompression bomb")


def picture(seed: int, side: int = 48) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def header_of_100_megapixels() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    for i in range(12):
        picture(i).save(place / f"p{i:02d}.png")
        (place / f"p{i:02d}.txt").write_text(f"thing number {i}" if i != 3 else "a cat\n")
    picture(0).resize((40, 40)).save(place / "p90.webp", quality=70)
    Image.new("RGB", (48, 48), "white").save(place / "p91.png")
    (place / "p92.png").write_bytes(b"")
    (place / "p93.png").write_bytes(header_of_100_megapixels())
    (place / "p94.png").write_bytes((place / "p01.png").read_bytes()[:200])
    for i in range(90, 95):
        (place / f"p{i}.txt").write_bytes(b"odd \xff\xfe caption\x00")
    return place


def run(*words: object) -> None:
    assert main([str(word) for word in ("data", *words)]) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_passed_over_is_told_once(tmp_path, capfd, workers):
    for i in range(4):
        place = tmp_path / "set" / "train" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i}.bmp")
        (place / f"{i}.heic").write_bytes(b"x")
    common = ("pack", f"--data={tmp_path / 'set'}", f"--out={tmp_path / 'pool'}")
    run(*common, f"--workers={workers}", "--per-part=2")
    told = capfd.readouterr().err
    assert told.count("4 passed over: suffix .heic, which is not read") == 1
    assert told.count("split train of train: 4 pictures of 2 classes") == 1
    assert len(PoolSource(tmp_path / "pool")) == 4


def test_a_folder_becomes_a_set_step_by_step(folder, tmp_path, capsys):
    pool, out = tmp_path / "pool", tmp_path / "out"
    run(
        "pack", f"--data={folder}", f"--out={pool}", "--side=32", "--licence=CC0-1.0", "--workers=1"
    )
    manifest = json.loads((pool / "pool.json").read_text())
    counts = {k: v for k, v in manifest["counts"].items() if k not in ("read", "records")}
    assert manifest["counts"]["read"] == 17 and manifest["counts"]["records"] == 14
    assert set(counts) == {"empty file", "too many pixels", "truncated picture"}
    assert manifest["licences"] == {"CC0-1.0": 14}
    run("filter", f"--pool={pool}", f"--out={out}/a", "--without=('blank',)", "--workers=1")
    run("dedup", f"--pool={pool}", f"--index={out}/a", f"--out={out}/b", "--workers=1")
    run(
        "decontaminate",
        f"--pool={pool}",
        f"--index={out}/b",
        f"--out={out}/c",
        "--concepts=('cat',)",
        "--workers=1",
    )
    run(
        "tokenizer",
        f"--pool={pool}",
        f"--index={out}/c",
        f"--out={out}/tokenizer.json",
        "--size=300",
    )
    run("report", f"--pool={pool}", f"--index={out}/c", f"--out={out}")
    run("card", f"--pool={pool}", f"--index={out}/c", f"--out={out}", "--about=Things of a test.")
    said = capsys.readouterr().out
    assert "14 records" in said and "11 of 14 are kept" in said
    kept = PoolSource(out / "c")
    # Left out: the blank one, one of two alike, the cat.
    assert len(kept) == 11 and all("cat" not in kept[i]["texts"][0] for i in range(11))
    page = (out / "report.html").read_text()
    for word in ("Left out: near duplicate", "held-out concept", "empty file", "data:image/png"):
        assert word in page
    card = (out / "CARD.md").read_text()
    assert "Things of a test." in card and "| pictures | 11 | CC0-1.0 | not given |" in card
    # Few texts have few pairs to merge.
    assert 260 <= text.load(out / "tokenizer.json").vocab_size <= 300


@pytest.mark.parametrize(
    "words, said",
    [
        (("report", "--pool=nothing", "--out=x"), "nothing/pool.json: missing"),
        (("pack", "--data=nothing", "--out=x"), "nothing"),
        (("filter", "--pool=nothing", "--out=x", "--minimum=3"), "minimum"),
        (
            ("run", "--config=configs/quickstart.py", "--workdir=x"),
            "a config of `run`, not of `data run`",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    if words[0] == "run":
        words = (words[0], "--config=quickstart", *words[2:])
    assert main(["data", *words]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line
    assert not (tmp_path / "x").exists()


def test_any_data_can_be_looked_at(folder, tmp_path):
    run("report", f"--data={folder}", f"--out={tmp_path / 'look'}")
    page = (tmp_path / "look" / "report.html").read_text()
    assert "pixels of another record" in page and "too many pixels" in page


@pytest.mark.parametrize("out", ["mine", "mine/words.json"])
def test_a_tokenizer_of_ones_own_captions(folder, tmp_path, out):
    run("tokenizer", f"--data={folder}", f"--out={tmp_path / out}", "--size=300")
    path = tmp_path / "mine" / ("words.json" if out.endswith("json") else "tokenizer.json")
    words = text.load(path)
    assert words.decode(words.encode("Thing number 7", 16)) == "thing number 7"
    assert (tmp_path / "mine" / "pool" / "pool.json").is_file()


def test_a_page_is_the_same_every_time(folder, tmp_path):
    pool = tmp_path / "pool"
    run("pack", f"--data={folder}", f"--out={pool}", "--workers=1")
    pages = []
    for name in ("a", "b"):
        run("report", f"--pool={pool}", f"--out={tmp_path / name}")
        pages.append((tmp_path / name / "report.html").read_bytes())
    assert pages[0] == pages[1]
