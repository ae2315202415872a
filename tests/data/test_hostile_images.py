"""Damaged and hostile picture files: each is decoded, or refused under one of a few causes."""

import errno
import io
import json
import pathlib
import random
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from intern_jax.data.read import decoding, formats
from intern_jax.data.read.annotations import picture_size
from intern_jax.data.read.decoding import CAUSES, decode, decode_turned, orientation_of
from intern_jax.data.read.formats import reads_avif
from intern_jax.data.schema.sample import CorruptSample

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tools.chaos import hostile, images, mutations  # noqa: E402

FILES = hostile.files()
# The filter that decoding.py sets does not reach into pytest's own.
pytestmark = pytest.mark.filterwarnings("ignore")


def outcome(data, where="x"):
    """DECODED or the cause; the picture must be what decode promises."""
    try:
        image = decode(data, where)
    except CorruptSample as fault:
        assert fault.cause in CAUSES and fault.where == where
        assert str(fault).startswith(f"{where}: {fault.cause}") and "\n" not in str(fault)
        return fault.cause
    assert image.dtype == np.uint8 and image.ndim == 3
    assert image.shape[2] in (3, 4) and 0 not in image.shape
    return hostile.DECODED


@pytest.mark.parametrize("name", FILES)
def test_hand_made_files_have_their_outcome(name):
    found = outcome(FILES[name].data)
    # Without an outcome: what breaks no rule that every version of Pillow reads alike.
    assert FILES[name].outcome in (found, None)


@pytest.mark.parametrize("kind", hostile.PLACES)
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png-rgb"].data)
    hostile.make_place(kind, path)
    found = []
    thread = threading.Thread(target=lambda: found.append(outcome(path, str(path))), daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert found == [hostile.PLACES[kind]]


def test_names_that_no_file_can_have_are_refused():
    assert outcome("a\0b.png") == "unreadable file"
    assert outcome("a" * 5000) == "unreadable file"
    assert outcome("/dev/null/a.png") == "missing file"


def test_a_file_that_the_machine_fails_to_read_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png-rgb"].data)
    monkeypatch.setattr(decoding, "PAUSES", (0.0, 0.0))
    really_open, tries = decoding._open_at_once, []

    def stumble(failures, number):
        def open_at_once(path, flags):
            tries.append(path)
            if len(tries) <= failures:
                raise OSError(number, "no")
            return really_open(path, flags)

        tries.clear()
        monkeypatch.setattr(decoding, "_open_at_once", open_at_once)

    stumble(2, errno.EIO)
    assert outcome(path) == hostile.DECODED and len(tries) == 3
    stumble(3, errno.EIO)
    assert outcome(path) == "unreadable file" and len(tries) == 3
    stumble(3, errno.EACCES)
    assert outcome(path) == "unreadable file" and len(tries) == 1


def test_caps_hold_before_pixels_are_read(monkeypatch):
    data = FILES["png-rgb"].data
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("pixels were read"))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 24 * 16 - 1)
    assert outcome(data) == "too many pixels"
    monkeypatch.setattr(decoding, "MAX_BYTES", len(data) - 1)
    assert outcome(data) == "too many bytes"


def test_a_file_above_the_cap_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png-rgb"].data)
    monkeypatch.setattr(decoding, "MAX_BYTES", 99)
    monkeypatch.setattr(decoding, "format_of", lambda _: pytest.fail("it was read"))
    assert outcome(path) == "too many bytes"


@pytest.mark.parametrize(
    ("cap", "value", "name", "cause"),
    [
        ("MAX_READS", 100, "jpeg-comments", "too many parts"),
        ("MAX_READS", 100, "jpeg-junk", "too many parts"),
        ("MAX_READS", 2, "png-lower-case", "too many parts"),
        ("MAX_HEAD", 10_000, "jpeg-comments", "too many bytes"),
        ("MAX_SCANNED", 20 * 64 * 64, "jpeg-some-scans", "too many parts"),
        ("MAX_SIDE", 2999, "one-column", "too many pixels"),
    ],
)
def test_work_is_bounded_by_each_cap(monkeypatch, cap, value, name, cause):
    assert outcome(FILES[name].data) == hostile.DECODED
    monkeypatch.setattr(decoding, cap, value)
    assert outcome(FILES[name].data) == cause


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("value", [*range(10), 255])
def test_pictures_are_turned_upright_and_garbage_turns_nothing(value):
    picture = hostile.picture()
    exif = hostile.exif(hostile.entry(0x112, 3, 1, value))
    data = hostile.encoded(picture, "PNG", exif=exif)
    expected = TURNED.get(value, TURNED[1])(np.asarray(picture))
    np.testing.assert_array_equal(decode(data, "x"), expected)


def test_transparency_of_every_kind():
    def clear(*chunks, **options):
        return decode(hostile.png(*chunks, **options), "x")

    # Rows of png() are 0, 1, 2, ...
    grey = clear(hostile.chunk(b"tRNS", b"\0\2"))
    np.testing.assert_array_equal(
        grey[0], [[0] * 3 + [255], [1] * 3 + [255], [2] * 3 + [0], [3] * 3 + [255]]
    )
    color = clear(hostile.chunk(b"tRNS", b"\0\3\0\4\0\5"), color=hostile.RGB)
    np.testing.assert_array_equal(color[0, :2], [[0, 1, 2, 255], [3, 4, 5, 0]])
    deep = clear(hostile.chunk(b"tRNS", b"\2\3"), bits=16)
    np.testing.assert_array_equal(deep[0, :2], [[0, 0, 0, 255], [2, 2, 2, 0]])
    colors = hostile.chunk(b"PLTE", bytes(range(12)))
    alphas = hostile.chunk(b"tRNS", b"\x09\x08\x07")
    paletted = clear(colors, alphas, color=hostile.PALETTE)
    np.testing.assert_array_equal(
        paletted[0], [[0, 1, 2, 9], [3, 4, 5, 8], [6, 7, 8, 7], [9, 10, 11, 255]]
    )


def test_16_bits_become_the_upper_8():
    rows = (b"\0" + bytes(range(0, 240, 10))) * 4
    color = decode(hostile.png(bits=16, color=hostile.RGB, rows=rows), "x")
    np.testing.assert_array_equal(color[0].ravel(), range(0, 240, 20))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGB", "RGBA", "I;16"])
def test_modes_are_as_pillow_converts_them(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    data = hostile.encoded(hostile.picture(mode), kind)
    with Image.open(io.BytesIO(data)) as im:
        if mode == "I;16":
            expected = np.repeat((np.asarray(im) // 256)[..., None], 3, axis=-1)
        else:
            expected = np.asarray(im.convert("RGBA" if im.has_transparency_data else "RGB"))
    np.testing.assert_array_equal(decode(data, "x"), expected)


LOSSLESS = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}}
KINDS = ("BMP", "GIF", "TIFF", *(["AVIF"] if reads_avif() else []))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_formats_have_the_pixels_of_a_png(kind, mode):
    stored = {"BMP": "1 L P RGB", "GIF": "1 L P", "AVIF": "L RGB RGBA", "TIFF": mode}
    if mode not in stored[kind].split():
        return
    made = hostile.picture().quantize(200) if mode == "P" else hostile.picture(mode)
    expected = decode(hostile.encoded(made, "PNG"), "x") if mode != "CMYK" else made.convert("RGB")
    found = decode(hostile.encoded(made, kind, **LOSSLESS.get(kind, {})), "x")
    # Colours of an AVIF pass through YCbCr.
    np.testing.assert_allclose(found.astype(int), np.asarray(expected), atol=4 * (kind == "AVIF"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ("TIFF", "AVIF")])
@pytest.mark.parametrize("value", [1, 3, 6, 8])
def test_tiff_and_avif_are_turned_once_and_say_by_how_much(kind, value):
    made = hostile.picture()
    exif = Image.Exif()
    exif[0x112] = value
    data = hostile.encoded(made, kind, exif=exif, **LOSSLESS.get(kind, {}))
    found, orientation = decode_turned(data, "x")
    expected = TURNED[value](np.asarray(made))
    np.testing.assert_allclose(found.astype(int), expected, atol=4 * (kind == "AVIF"))
    assert orientation == orientation_of(data, "x") == value
    assert picture_size(data, "x") == (16, 24)  # as it is stored


def test_the_first_page_of_a_tiff_and_the_first_picture_of_a_gif_are_read():
    frames = [Image.new("L", (8, 8), 40 * i) for i in range(3)]
    for kind in ("TIFF", "GIF"):
        data = hostile.encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with Image.open(io.BytesIO(data)) as im:
            assert im.n_frames == 3
        assert decode(data, "x").max() == 0


def test_a_pillow_without_avif_says_what_is_needed(monkeypatch):
    monkeypatch.setattr(formats, "reads_avif", lambda: False)
    head = b"\0\0\0\x14ftypmif1\0\0\0\0avif" + bytes(40)
    with pytest.raises(
        CorruptSample, match=r"x: unknown format \(AVIF needs Pillow 11\.3 or newer"
    ):
        decode(head, "x")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {"default_image": False}),
        ("PNG", {"default_image": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_of_an_animation_the_first_picture_is_decoded(kind, options):
    frames = [hostile.picture("RGBA", (12, 12)).rotate(90 * i) for i in range(3)]
    data = hostile.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as im:
        assert im.n_frames == 3
    found, first = decode(data, "x"), np.asarray(frames[0])
    seen = first[..., 3] > 0  # the colours under full transparency are not kept by WebP
    np.testing.assert_array_equal(found[seen], first[seen])
    np.testing.assert_array_equal(found[..., 3], first[..., 3])


def test_a_flipped_bit_of_a_png_is_always_noticed():
    data = hostile.encoded(hostile.picture(size=(6, 5)), "PNG")
    whole = decode(data, "x")
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(bytes(flipped)) != hostile.DECODED, f"bit {bit}"
    np.testing.assert_array_equal(decode(data, "x"), whole)


@pytest.mark.parametrize(
    "name",
    [
        *("png-rgb", "jpeg-rgb", "webp-rgb", "webp-rgba", "bmp-rgb", "tiff-rgb", "tiff-lzw"),
        *(["avif-rgb"] if reads_avif() else []),
    ],
)
def test_every_truncation_is_noticed(name):
    data = FILES[name].data
    for length in range(len(data) - 1):
        assert outcome(data[:length]) != hostile.DECODED, f"{length} of {len(data)} bytes"


def test_decoding_in_threads_leaves_the_filters_of_warnings_alone():
    garbage = [FILES[name].data for name in FILES if name.startswith(("exif", "apng", "jpeg"))]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(outcome, garbage * 5))
    assert warnings.filters == before


def test_mutations_are_a_function_of_the_seed():
    whole = mutations.bases()
    assert all(outcome(data) == hostile.DECODED for data in whole)
    made = [mutations.mutated(random.Random(i), whole) for i in range(100)]
    assert made == [mutations.mutated(random.Random(i), mutations.bases()) for i in range(100)]
    assert len({zlib.crc32(data) for data in made}) > 95
    for mutate in mutations.MUTATIONS:
        changed = [mutate(data, random.Random(1)) != data for data in whole]
        assert sum(changed) > len(whole) // 2, mutate.__name__


@pytest.mark.medium
def test_the_campaign_counts_every_picture_and_the_same_again(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tools.chaos.images",
        "--count=300",
        f"--keep={tmp_path / 'k'}",
    ]
    reports = []
    for seed in (0, 0, 1):
        done = subprocess.run(
            [*command, f"--seed={seed}"], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    first, again, other = reports
    for report in reports:
        assert report["images"] == 300 and report["crashes"] == report["hangs"] == 0
        assert report["decoded"] + sum(report["skipped"].values()) == 300
        assert set(report["skipped"]) <= set(CAUSES) and report["decoded"] > 50
    counts = ("decoded", "skipped")
    assert [first[c] for c in counts] == [again[c] for c in counts] != [other[c] for c in counts]
    # Of the hand-made files and places it counted at least what they are.
    for cause in ("too many pixels", "not a file", "missing file", "too many bytes"):
        known = sum(file.outcome == cause for file in FILES.values())
        known += sum(c == cause for c in hostile.PLACES.values())
        assert first["skipped"][cause] >= known
    assert not (tmp_path / "k").exists()


# The first six hand-made files, in the order in which a source lists them.
NAMES = sorted((images.CLASSES[i % 2], i, name) for i, name in enumerate([*FILES][:6]))
CHILD = """
import json, os, sys, time
start = int(sys.argv[2].partition("=")[2])
for number, name in enumerate(NAMES):
    if number >= start:
        if number == 2: time.sleep(600)
        if number == 4: os.abort()
        word = {"name": name, "cause": None, "seconds": 0.5, "cpu": 0.4, "extra_mb": 7.0}
        print(json.dumps(word), flush=True)
"""


def test_the_campaign_counts_hangs_and_crashes_and_goes_on(tmp_path, monkeypatch, capsys):
    names = [f"{label}/{n:04d}-{kind}.png" for label, n, kind in NAMES]
    script = CHILD.replace("NAMES", repr(names))
    monkeypatch.setattr(images, "CHILD", (sys.executable, "-c", script))
    monkeypatch.setattr(images, "STARTUP", 20)
    report = images.campaign(6, 0, limit=1.0, keep=tmp_path / "kept")
    assert report["hangs"] == 1 and report["crashes"] == 1 and report["decoded"] == 4
    assert report["slowest_decode_s"] == 0.5 and report["slowest_cpu_s"] == 0.4
    assert report["peak_extra_mb"] == 7
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "hang",
        "exit code -6",
    ]
    kept = sorted((tmp_path / "kept").iterdir())
    assert [p.name for p in kept] == [names[2].replace("/", "-"), names[4].replace("/", "-")]
