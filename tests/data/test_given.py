"""One picture gives the same pixels in whatever way it is given: the table of modes by doors."""

import io
import pathlib
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image, ImageOps
from pyarrow import parquet

from intern_jax.core.config import UserError
from intern_jax.curation.pack import pack
from intern_jax.data.open.opening import open_data
from intern_jax.data.read import given
from intern_jax.data.read.formats import reads_avif

HEIGHT, WIDTH = 20, 30
Y, X = np.mgrid[:HEIGHT, :WIDTH]
GREY = (8 * X + Y).astype(np.uint8)
COLOUR = np.stack([8 * X, 12 * Y, 200 - 6 * X], -1).astype(np.uint8)
ALPHA = np.where(X > 9, 255, 40).astype(np.uint8)
DEEP = (2000 * X + 100 * Y).astype(np.uint16)
BIT = X % 3 == 0
PALETTE = [255, 0, 0, 0, 255, 0, 10, 20, 30]


def rgb(grey):
    return np.repeat(grey[..., None], 3, -1)


def palette_picture():
    im = Image.frombytes("P", (WIDTH, HEIGHT), (X % 3).astype(np.uint8).tobytes())
    im.putpalette(PALETTE)
    return im


COLOURS = np.asarray(PALETTE, np.uint8).reshape(3, 3)[X % 3]
CLEAR = np.where(X % 3 == 1, 0, 255).astype(np.uint8)
BLOCK = np.where((X < 16)[..., None], [200, 60, 20, 0], [10, 90, 160, 40]).astype(np.uint8)


def ink(cmyk):
    """RGB of four inks."""
    colour, black = cmyk[..., :3].astype(float), cmyk[..., 3:].astype(float)
    return ((255 - colour) * (255 - black) / 255).round().astype(np.uint8)


# Mode: (the picture, how it is saved, its pixels by hand, how far a lossy file may be from them).
MODES = {
    "1": (Image.fromarray(BIT), {}, rgb(255 * BIT.astype(np.uint8)), 0),
    "L": (Image.fromarray(GREY), {}, rgb(GREY), 0),
    "L with a clear value": (
        Image.fromarray(GREY),
        {"transparency": 8},
        np.dstack([rgb(GREY), np.where(GREY == 8, 0, 255)]),
        0,
    ),
    "LA": (Image.fromarray(np.dstack([GREY, ALPHA])), {}, np.dstack([rgb(GREY), ALPHA]), 0),
    "P": (palette_picture(), {}, COLOURS, 0),
    "P with a clear colour": (
        palette_picture(),
        {"transparency": 1},
        np.dstack([COLOURS, CLEAR]),
        0,
    ),
    "RGB": (Image.fromarray(COLOUR), {}, COLOUR, 0),
    "RGB of WebP": (
        Image.fromarray(COLOUR),
        {"format": "WEBP", "lossless": True},
        COLOUR,
        0,
    ),
    "RGB of JPEG": (
        Image.fromarray(rgb(GREY)),
        {"format": "JPEG", "quality": 98, "subsampling": 0},
        rgb(GREY),
        4,
    ),
    "RGBA": (Image.fromarray(np.dstack([COLOUR, ALPHA])), {}, np.dstack([COLOUR, ALPHA]), 0),
    "I;16": (Image.fromarray(DEEP), {}, rgb((DEEP // 256).astype(np.uint8)), 0),
    "CMYK": (
        Image.frombytes("CMYK", (WIDTH, HEIGHT), BLOCK.tobytes()),
        {"format": "JPEG", "quality": 98, "subsampling": 0},
        ink(BLOCK),
        8,
    ),
}
# EXIF orientation: what it does to the stored pixels.
TURNS = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 5: lambda a: a.swapaxes(0, 1)}
TURNS |= {6: lambda a: np.rot90(a, -1), 8: np.rot90}


def transposed_by_the_user(path):
    return ImageOps.exif_transpose(Image.open(path))


def loaded(path):
    im = Image.open(path)
    im.load()
    return im


DOORS = {
    "path": lambda path: path,
    "text": str,
    "bytes": pathlib.Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
    "PIL image": Image.open,
    "loaded PIL image": loaded,
    "copy of a PIL image": lambda path: Image.open(path).copy(),
    "transposed PIL image": transposed_by_the_user,
}


def read(picture):
    ((one, where),) = given.each(picture)
    return given.as_array(one, where)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("mode", MODES)
def test_one_picture_through_every_door(tmp_path, mode, turn):
    im, options, expected, off = MODES[mode]
    path = tmp_path / "cats" / "a.png"
    path.parent.mkdir()
    exif = im.getexif()
    exif[0x0112] = turn
    im.save(path, **{"format": "PNG", **options}, exif=exif)
    expected = TURNS[turn](expected)
    for door, opened in DOORS.items():
        found = read(opened(path))
        assert found.dtype == np.uint8 and found.shape == expected.shape, door
        assert np.abs(found.astype(int) - expected).max() <= off, door
        np.testing.assert_array_equal(found, read(path), door)
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "b.png").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(open_data(tmp_path)[1]["image"], read(path))


FORMS = {"tif": {}, "bmp": {}, "gif": {}, "webp": {"lossless": True}}
FORMS |= {"avif": {"quality": 100, "subsampling": "4:4:4"}} if reads_avif() else {}


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize("suffix", FORMS)
def test_pictures_of_other_formats_through_every_door(tmp_path, suffix, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    holds_exif = suffix not in ("bmp", "gif")
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(COLOUR).quantize(250) if suffix == "gif" else Image.fromarray(COLOUR)
    image.save(path, **FORMS[suffix], **({"exif": exif} if holds_exif else {}))
    expected = TURNS[turn if holds_exif else 1](np.asarray(image.convert("RGB")))
    for door, opened in DOORS.items():
        np.testing.assert_allclose(
            read(opened(path)).astype(int), expected, atol=4 * (suffix == "avif"), err_msg=door
        )


def test_a_tiff_of_floats_is_read_as_an_array_of_them(tmp_path):
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "a.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "b.tif")
    for door, opened in DOORS.items():
        np.testing.assert_array_equal(read(opened(tmp_path / "a.tif")), rgb(GREY), door)
        with pytest.raises(UserError, match="give floats in"):
            read(opened(tmp_path / "b.tif"))


@pytest.mark.parametrize("mode", ["RGB", "I;16", "P with a clear colour"])
def test_every_source_and_a_pool_of_it_give_the_same_pixels(tmp_path, mode):
    im, options, expected, _ = MODES[mode]
    exif = im.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    im.save(file, "PNG", **options, exif=exif)
    content, sources = file.getvalue(), tmp_path / "sources"
    for folder in ("captions", "folders/cat", "folders/dog"):
        (sources / folder).mkdir(parents=True)
        (sources / folder / "a.png").write_bytes(content)
    (sources / "captions/a.txt").write_text("a cat")
    with tarfile.open(sources / "a.tar", "w") as tar:
        for name, part in (("a.png", content), ("a.txt", b"a cat")):
            info = tarfile.TarInfo(name)
            info.size = len(part)
            tar.addfile(info, io.BytesIO(part))
    table = pyarrow.table({"image": [{"bytes": content, "path": "a.png"}], "text": ["a cat"]})
    parquet.write_table(table, sources / "a.parquet")
    for name in ("captions", "folders", "a.tar", "a.parquet"):
        opened = open_data(sources / name)
        np.testing.assert_array_equal(opened[0]["image"], TURNS[6](expected), name)
        spec = {"fn": "intern_jax.data.open.opening:open_data", "data": str(sources / name)}
        packed = pack(spec, tmp_path / "pools" / name, quality=101).records
        np.testing.assert_array_equal(packed[0]["image"], TURNS[6](expected), name)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, rgb(GREY)),
        (GREY[..., None], rgb(GREY)),
        (np.dstack([GREY, ALPHA]), np.dstack([rgb(GREY), ALPHA])),
        (COLOUR, COLOUR),
        (np.dstack([COLOUR, ALPHA]), np.dstack([COLOUR, ALPHA])),
        (DEEP, rgb((DEEP // 256).astype(np.uint8))),
        (BIT, rgb(255 * BIT.astype(np.uint8))),
        (COLOUR / 255, COLOUR),
        ((COLOUR / 255).astype(np.float32)[..., ::-1], COLOUR[..., ::-1]),
        ((GREY / 255).astype(np.float16), rgb(GREY)),
        (np.full((2, 2), np.float32(1 + 1e-6)), np.full((2, 2, 3), 255)),
    ],
)
def test_arrays_of_every_kind(array, expected):
    found = read(array)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_values_of_pil_images_mean_what_those_of_arrays_do():
    """Mode F is floats, and the range of mode I is told by nothing."""
    np.testing.assert_array_equal(read(Image.fromarray((GREY / 255).astype(np.float32))), rgb(GREY))
    with pytest.raises(UserError, match=r"images\[0\]: .*floats from 0 to 251; give floats in"):
        read(Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(UserError, match=r"images\[0\]: .*values of int32; give uint8, uint16"):
        read(Image.fromarray(GREY.astype(np.int32)))


@pytest.mark.parametrize(
    "steps",
    [("RGB", "HSV"), ("RGB", "YCbCr"), ("RGBA", "RGBa"), ("LA", "La"), ("P", "PA")],
    ids=str,
)
def test_modes_that_no_file_has(steps):
    im = Image.new("L", (6, 4), 90)
    for mode in steps:
        im = im.convert(mode)
    found = read(im)
    assert found.shape == (4, 6, 3 + steps[1].endswith(("a", "A")))
    assert (np.abs(found[..., :3].astype(int) - 90) <= 1).all() and (found[..., 3:] == 255).all()


def test_a_pil_image_stays_as_it_is_and_its_array_is_one_s_own():
    im = Image.fromarray(COLOUR.copy())
    found = read(im)
    im.paste((0, 0, 0), (0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(found, COLOUR)
    turned = Image.fromarray(COLOUR)
    turned.getexif()[0x0112] = 6
    assert read(turned).shape == (WIDTH, HEIGHT, 3)
    assert turned.size == (WIDTH, HEIGHT) and turned.getexif()[0x0112] == 6
    np.testing.assert_array_equal(np.asarray(turned), COLOUR)


def test_an_open_file_is_read_from_its_beginning_each_time(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        file.read(5)
        for _ in range(2):
            np.testing.assert_array_equal(read(file), COLOUR)


def test_a_stream_that_cannot_go_back_is_read_on(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")

    class Stream(io.BytesIO):
        def seekable(self):
            return False

    np.testing.assert_array_equal(read(Stream((tmp_path / "a.png").read_bytes())), COLOUR)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.full((4, 4, 3), 255.0),
            r"images\[0\]: .*floats from 255 to 255; give floats in \[0, 1",
        ),
        (np.full((4, 4), -0.5), "floats from -0.5 to -0.5"),
        (np.full((4, 4), np.nan), "floats from nan to nan"),
        (np.full((4, 4), np.inf, np.float16), "floats from inf to inf"),
        (np.zeros((4, 4), np.int64), "values of int64; give uint8"),
        (np.zeros((4, 4), complex), "values of complex128"),
        (np.zeros((4, 4, 5), np.uint8), r"images\[0\]: shape \[4, 4, 5\]; give \[H, W\]"),
        (
            np.zeros((3, 8, 9), np.uint8),
            r"shape \[3, 8, 9\]; give image.transpose\(1, 2, 0\), as channels come",
        ),
        (np.zeros((0, 4, 3), np.uint8), r"shape \[0, 4, 3\]"),
        (np.zeros((), np.uint8), r"shape \[\]"),
        (7, "images: is int; give a path, bytes"),
        ([7], r"images\[0\]: is int; give a path, bytes"),
        ([None], "is NoneType"),
        ([[GREY]], r"images\[0\]: is list"),
        (b"", r"images\[0\]: empty file"),
        (b"no picture", r"images\[0\]: unknown format"),
        (io.StringIO("text"), r"images\[0\]: a file that is open as text; open it with mode 'rb'"),
        ("nowhere.png", r"nowhere\.png: missing file.*; leave it out"),
        ("", "missing file"),
        (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
        ({"image": GREY}, "is str|missing"),
    ],
)
def test_what_is_no_picture_is_told_in_one_line(picture, message):
    with pytest.raises(UserError, match=message) as error:
        read(picture)
    assert "\n" not in str(error.value)


def test_a_closed_file_and_a_closed_picture_are_told(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file, Image.open(tmp_path / "a.png") as im:
        pass
    with pytest.raises(UserError, match=r"a\.png: unreadable file .*closed"):
        read(file)
    with pytest.raises(UserError, match=r"images\[0\]: damaged picture"):
        read(im)


def test_a_picture_that_pillow_cannot_finish_is_told(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    for opened in (DOORS["path"], DOORS["bytes"], DOORS["PIL image"]):
        with pytest.raises(UserError, match=r"truncated|damaged"):
            read(opened(tmp_path / "a.png"))


def test_many_pictures_in_every_way(tmp_path, caplog):
    for name in ("b.png", "a.JPG", "inner/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name != "notes.txt":
            Image.fromarray(COLOUR).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "inner" / "round").symlink_to(tmp_path)
    names = [where for _, where in given.each(tmp_path)]
    assert names == [str(tmp_path / name) for name in ("a.JPG", "b.png", "inner/c.webp")]
    for cause in (
        "suffix .txt, which is not read",
        "hidden file",
        "hidden folder",
        "link to a folder",
    ):
        assert f"1 passed over: {cause}" in caplog.text

    def shapes(pictures):
        return [given.as_array(*one).shape[:2] for one in given.each(pictures)]

    one = (HEIGHT, WIDTH)
    paths = [tmp_path / "b.png", str(tmp_path / "a.JPG")]
    assert shapes(paths) == shapes(tuple(paths)) == shapes(iter(paths)) == [one] * 2
    assert (
        shapes(np.asarray(paths, object))
        == shapes(np.asarray([str(p) for p in paths]))
        == [one] * 2
    )
    assert shapes([*paths, tmp_path, COLOUR, (tmp_path / "b.png").read_bytes()]) == [one] * 7
    assert shapes(np.stack([COLOUR] * 3)) == shapes(np.stack([GREY[..., None]] * 3)) == [one] * 3
    assert shapes(picture for picture in [GREY, COLOUR]) == [one] * 2
    assert shapes([]) == []


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(UserError, match="a folder without pictures"):
        read(tmp_path)
