"""Letters of fonts: right letters in the middle, families refused by cause, hostile fonts in bounded time."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from intern_jax.core.config import UserError, bind
from intern_jax.data.read import fonts
from intern_jax.data.schema.fingerprints import fingerprint
from intern_jax.data.schema.sample import CorruptSample, check
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.fonts import FontLetters, split_of
from intern_jax.data.sources.iconify import color_of


def box(left, bottom, right, top):
    pen = TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for point in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def of_parts(names):
    pen = TTGlyphPen(dict.fromkeys(names))
    for i, name in enumerate(names):
        pen.addComponent(name, (1, 0, 0, 1, i, 0))
    return pen.glyph()


def font(glyphs, units=1000, bounds=True, flavor="woff", missing=None):
    """A font file with a glyph per name; names of one letter are drawn for it."""
    glyphs = {".notdef": missing or TTGlyphPen(None).glyph(), **glyphs}
    builder = FontBuilder(units, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord(name): name for name in glyphs if len(name) == 1})
    builder.setupGlyf(glyphs, calcGlyphBounds=bounds)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.font.flavor = flavor
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


def bomb(depth=12, width=4):
    """A letter made of width ** depth glyphs, each empty."""
    glyphs = {f"g{i}": of_parts([f"g{i + 1}"] * width) for i in range(depth)}
    empty = {f"g{depth}": TTGlyphPen(None).glyph()}
    return font({"A": of_parts(["g0"] * width), **glyphs, **empty}, bounds=False)


PLAIN = {"A": box(100, 0, 500, 800), "B": box(0, -100, 300, 50), "C": of_parts(["A", "B"])}
ABC = font(PLAIN)


@pytest.mark.parametrize(
    ("letter", "width", "height"), [("A", 400, 800), ("B", 300, 150), ("C", 501, 900)]
)
@pytest.mark.parametrize("side", [16, 64, 101])
def test_a_letter_fills_the_square_and_is_in_its_middle(letter, width, height, side):
    drawn = fonts.draw(ABC, letter, side, "test")
    assert drawn.shape == (side, side) and drawn.dtype == np.uint8
    y, x = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    found = np.array([x[-1] + 1 - x[0], y[-1] + 1 - y[0]])
    expected = np.array([width, height]) * fonts.FILL * side / max(width, height)
    np.testing.assert_allclose(found, expected, atol=2.0)
    middle = np.array([x[0] + x[-1] + 1, y[0] + y[-1] + 1]) / 2
    np.testing.assert_allclose(middle, side / 2, atol=0.5)
    if letter != "C":  # a box is full
        assert (drawn[y[1] : y[-1], x[1] : x[-1]] == 255).all()


def replaced(data, at, value):
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


def with_tag(data, tag):
    return data.replace(b"post", tag, 1)


HOSTILE = {
    "no bytes": (b"", "empty file"),
    "truncated": (ABC[: len(ABC) // 2], "damaged font"),
    "a header alone": (ABC[:44], "damaged font"),
    "random bytes": (np.random.default_rng(0).bytes(5000), "unknown format"),
    "random after the header": (b"wOFF" + np.random.default_rng(1).bytes(5000), None),
    "another format": (font(PLAIN, flavor=None), "unknown format"),
    "says it is large": (replaced(ABC, 16, 1 << 31), "too many bytes"),
    "a table twice": (with_tag(ABC, b"glyf"), "damaged font"),
    "pixels": (with_tag(ABC, b"sbix"), "pictures in the font"),
    "giant": (font({"A": box(-16000, -16000, 16000, 16000)}, units=16), "outline too large"),
    "far away": (font({"A": box(15000, 15000, 15500, 15800)}), "outline too large"),
    "tiny": (font({"A": box(0, 0, 999, 999)}, units=16384), "outline too small"),
    "empty letter": (font({"A": TTGlyphPen(None).glyph()}), "no such letter"),
    "no letter": (font({"Z": box(0, 0, 500, 500)}), "no such letter"),
    "a box for all it lacks": (
        font({"Z": box(0, 0, 500, 500)}, missing=box(0, 0, 400, 700)),
        "no such letter",
    ),
    "the same box": (
        font({"A": box(0, 0, 400, 700)}, missing=box(0, 0, 400, 700)),
        "no such letter",
    ),
    "parts of parts": (bomb(), "too many parts"),
    "deep parts": (bomb(depth=40, width=1), "too many parts"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_fonts_are_refused_by_cause(kind):
    data, cause = HOSTILE[kind]
    for act in (
        lambda: fonts.draw(data, "A", 64, "here"),
        lambda: fonts.check(data, "A", "here"),
    ):
        with pytest.raises(CorruptSample) as caught:
            act()
        assert caught.value.where == "here" and cause in (None, caught.value.cause)


def test_a_glyph_that_is_a_part_of_itself_is_refused():
    good = font({"A": of_parts(["B"]), "B": box(0, 0, 500, 500)}, bounds=False, flavor=None)
    entry = good.index(b"glyf")
    (at,) = struct.unpack_from(">I", good, entry + 8)  # A is the first that is drawn
    own = good[: at + 12] + struct.pack(">H", 1) + good[at + 14 :]
    with pytest.raises(CorruptSample, match=r"too many parts|damaged font"):
        fonts.check(as_woff(own), "A", "here")
    fonts.check(as_woff(good), "A", "here")


def as_woff(data):
    """WOFF of a font's bytes, its tables as they are."""
    count = struct.unpack_from(">H", data, 4)[0]
    entries, body = [], b""
    for n in range(count):
        tag, checksum, offset, length = struct.unpack_from(">4sIII", data, 12 + 16 * n)
        at = 44 + 20 * count + len(body)
        entries.append(struct.pack(">4sIIII", tag, at, length, length, checksum))
        body += data[offset : offset + length] + bytes(-length % 4)
    whole = 44 + 20 * count + len(body)
    head = struct.pack(">4s4sIHHI", b"wOFF", data[:4], whole, count, 0, len(data)) + bytes(24)
    return head + b"".join(entries) + body


def test_damaged_bytes_give_a_picture_or_a_cause():
    rng = np.random.default_rng(7)
    plain = as_woff(font(PLAIN, flavor=None))  # not packed, so that damage reaches FreeType
    causes = set()
    for _ in range(400):
        data = bytearray(plain)
        for at in rng.integers(44, len(data), int(rng.integers(1, 8))):
            data[at] = rng.integers(256)
        try:
            drawn = fonts.draw(bytes(data), "C", 32, "here")
            assert drawn.shape == (32, 32) and drawn.any()
        except CorruptSample as fault:
            causes.add(fault.cause)
    assert "damaged font" in causes


LICENCE = {"type": "OFL-1.1", "attribution": "Copyright Somebody"}


def family(folder, name, data=ABC, category="serif", licence=LICENCE, file="latin-400-normal"):
    files = folder / name / "files"
    files.mkdir(parents=True)
    (files / f"{name}-{file}.woff").write_bytes(data)
    about = {"id": name, "category": category, "license": licence}
    (folder / name / "metadata.json").write_text(json.dumps(about))


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        family(tmp_path, f"plain{i}-sans")
    family(tmp_path, "mono", category="monospace", licence={"type": "mit"})
    family(tmp_path, "odd", category="other")
    family(tmp_path, "empty", b"")
    family(tmp_path, "cut", ABC[:300])
    family(tmp_path, "greek", font({"Z": box(0, 0, 500, 500)}))
    family(tmp_path, "old", licence="https://licence.example")
    family(tmp_path, "closed", licence={"type": "Proprietary"})
    family(tmp_path, "bold", file="latin-700-normal")
    family(tmp_path, "libre-barcode-39")
    family(tmp_path, "nothing")
    (tmp_path / "nothing" / "metadata.json").write_text("{")
    return tmp_path


def test_samples_keys_labels_and_origins(folder):
    source = FontLetters(folder, letters="ABC", side=32)
    assert isinstance(source, Source) and source.family == "classification"
    assert len(source) == 14 * 3 and source.classes == ("A", "B", "C")
    assert source.keys[:4] == ["mono/A", "mono/B", "mono/C", "odd/A"]
    assert source.labels.tolist() == [0, 1, 2] * 14 and source.labels.dtype == np.int32
    for i in range(len(source)):
        sample = check(source[i], "letters", 3)
        assert sample["image"].shape == (32, 32, 4) and sample["key"] == source.keys[i]
        assert sample["label"] == source.labels[i]
        drawn = fonts.draw(ABC, source.classes[sample["label"]], 32, "test")
        np.testing.assert_array_equal(sample["image"][..., 3], drawn)
        color = bytes.fromhex(color_of(sample["key"])[1:])
        assert (sample["image"][..., :3] == np.frombuffer(color, np.uint8)).all()
    assert source[0]["texts"] == ["letter A in monospaced type", "letter A"]
    assert source[3]["texts"] == ["letter A"] and source.categories(3) == ["other"]
    assert source.origin(1) == {
        "source": "fontsource/mono",
        "licence": "MIT",
        "author": "",
        "name": "B",
    }
    assert source.origin(5)["author"] == "Copyright Somebody"
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[7]["image"], source[7]["image"])
    with pytest.raises(IndexError):
        source[42]


def test_families_are_refused_by_cause_in_one_line(folder, caplog):
    source = FontLetters(folder, letters="ABC")
    assert source.refused == {
        "no latin file of weight 400": ["bold"],
        "other licence": ["closed"],
        "damaged font": ["cut"],
        "empty file": ["empty"],
        "no such letter": ["greek"],
        "no letters": ["libre-barcode-39"],
        "unreadable metadata": ["nothing"],
        "licence not given": ["old"],
    }
    assert len(caplog.messages) == 1 and "8 of 22 families refused" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_a_font_damaged_later_is_a_corrupt_sample(folder):
    source = FontLetters(folder, ["odd"], letters="AB")
    path = folder / "odd" / "files" / "odd-latin-400-normal.woff"
    for data, cause in ((b"", "empty file"), (ABC[:200], "damaged font"), (None, "missing file")):
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(CorruptSample) as caught:
            FontLetters.__getitem__(pickle.loads(pickle.dumps(source)), 1)
        assert caught.value.cause == cause and "odd/B" in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_splits_share_no_family_and_no_variant(folder, share):
    both = [FontLetters(folder, letters="AB", split=s, share=share) for s in ("train", "test")]
    train, test = (set(source.families) for source in both)
    assert not train & test and len(train | test) == 14 and train and test
    assert both[0].fingerprint() != both[1].fingerprint()
    many = [split_of(f"family{i}", share) for i in range(4000)]
    assert abs(many.count("test") / 4000 - share) < 0.03
    for one, other in (("fira-sans", "fira-mono"), ("hanuman", "roboto-slab")):
        assert split_of(one, share) == split_of(other, share)


def test_fingerprints_change_with_what_is_drawn(folder):
    settings = ({}, {"side": 32}, {"families": ["odd"]}, {"letters": "BA"}, {"name": "other"})
    opened = [FontLetters(folder, **{"letters": "AB", **s}) for s in settings]
    assert len({fingerprint(source) for source in opened}) == len(settings)
    path = folder / "odd" / "files" / "odd-latin-400-normal.woff"
    path.write_bytes(font(PLAIN, missing=box(0, 0, 9, 9)))
    assert FontLetters(folder, letters="AB").fingerprint() != opened[0].fingerprint()


def test_nonsense_is_refused_in_one_line(folder, tmp_path):
    for arguments, said in (
        ({"letters": ""}, "letters"),
        ({"letters": "AA"}, "each letter once"),
        ({"letters": "A B"}, "each letter once"),
        ({"side": 0}, "side"),
        ({"side": 10**6}, "side"),
        ({"split": "val"}, "split"),
        ({"split": "test", "share": 1.0}, "share"),
        ({"families": ["none"]}, "npm install @fontsource/none"),
        ({"families": ["greek", "cut"]}, "no family is left.*2 of 2"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            FontLetters(folder, **{"letters": "ABC", **arguments})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such folder"):
        FontLetters(tmp_path / "nowhere")
    by_name = bind({"fn": "intern_jax.data.sources.fonts:FontLetters", "folder": str(folder)})
    with pytest.raises(UserError, match="no such letter"):
        by_name()
