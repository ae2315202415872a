"""Large JPEGs are decoded no larger than a training view needs: the same windows, and other doors see them whole."""

import io

import grain
import numpy as np
import pytest
from PIL import Image

from intern_jax.core.config import bind
from intern_jax.data.batches import datasets
from intern_jax.data.batches.mixture import OpenGroup
from intern_jax.data.batches.replacing import Replacing
from intern_jax.data.batches.stream import Stream
from intern_jax.data.make import augment, image_ops, labelled, pairs, views
from intern_jax.data.read import decoding, lending, scaled
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset

WIDTH, HEIGHT, SIZE = 1200, 900, 64
CLASSIFICATION = "intern_jax.data.make.views:classification"
PLAIN = {"color": 0.0, "grey_probability": 0.0, "background": "grey", "flip": False}


def gradient(width=WIDTH, height=HEIGHT) -> Image.Image:
    """A picture whose red tells x and green y, so that a view tells its window."""
    y, x = np.mgrid[:height, :width]
    values = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 128)], axis=-1)
    return Image.fromarray(values.astype(np.uint8))


def encoded(image: Image.Image, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight large JPEGs of two classes."""
    root = tmp_path_factory.mktemp("large")
    for i in range(8):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        turned = gradient().rotate(90 * (i % 4), expand=True)
        (root / "ab"[i % 2] / f"{i}.jpg").write_bytes(encoded(turned))
    return root


def group(folder, **settings):
    source = {"fn": "intern_jax.data.sources.folder:ImageFolder", "root": str(folder)}
    transform = {"fn": CLASSIFICATION, "size": SIZE, **PLAIN, **settings}
    return {"sources": [source], "batch_size": 4, "transform": transform}


def images(cfg, count=4, **given):
    batches = OpenGroup(cfg, **given).batches(3)
    return np.concatenate([batches[i]["image"] for i in range(count)]).astype(int)


@pytest.fixture
def decoded(monkeypatch):
    """The sizes (width, height) of JPEGs as they were decoded, after the turn."""
    sizes = []

    def lend(image, full=None):
        sizes.append(image.size)
        return lending.lend(image, full)

    monkeypatch.setattr(decoding, "lend", lend)
    return sizes


@pytest.mark.parametrize(
    ("window", "by"),
    [
        *(((63, 900), 1), ((64, 64), 1), ((127.9, 500), 1), ((128, 128), 2), ((500, 255), 2)),
        *(((256, 256), 4), ((511, 512), 4), ((512, 512), 8), ((9000, 9000), 8)),
    ],
)
def test_factor_is_the_largest_with_a_window_no_smaller_than_the_view(window, by):
    assert scaled.factor(*window, SIZE) == by
    assert by == 1 or min(window) / by >= SIZE


def test_a_picture_is_smaller_only_where_it_is_asked_for_and_knows_its_whole_size():
    data = encoded(gradient())
    with scaled.reduced(lambda *_: 4):
        small = decoding.decode(data, "here")
        whole, _ = decoding.decode_turned(data, "here")
        with scaled.reduced(None):
            inner = decoding.decode(data, "here")
        png = decoding.decode(encoded(gradient(), "PNG"), "here")
    assert small.shape == (225, 300, 3) and lending.full_size(small) == (WIDTH, HEIGHT)
    for array in (whole, inner, png, decoding.decode(data, "here")):
        assert array.shape == (HEIGHT, WIDTH, 3) and lending.full_size(array) == (WIDTH, HEIGHT)
    # Sides that do not divide are rounded up by libjpeg.
    with scaled.reduced(lambda *_: 8):
        odd = decoding.decode(encoded(gradient(1001, 603)), "here")
    assert odd.shape == (76, 126, 3) and lending.full_size(odd) == (1001, 603)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_measured_as_it_will_be_seen(orientation):
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    data, asked = encoded(gradient(), exif=exif), []
    with scaled.reduced(lambda *size: asked.append(size) or 2):
        small = decoding.decode(data, "here")
    whole = decoding.decode(data, "here")
    upright = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    assert asked == [upright] and lending.full_size(small) == upright
    assert whole.shape[1::-1] == upright and small.shape[1::-1] == tuple(s // 2 for s in upright)
    # The same corner is at the same place.
    assert np.abs(small[2, 2].astype(int) - whole[4, 4]).max() <= 3


def test_grey_and_cmyk_are_decoded_smaller_too():
    for mode in ("L", "CMYK"):
        data = encoded(gradient().convert(mode))
        with scaled.reduced(lambda *_: 2):
            assert decoding.decode(data, "here").shape == (450, 600, 3)


def test_a_cut_off_picture_is_damaged_at_every_scale():
    data = encoded(gradient())
    for by in (1, 8):
        with scaled.reduced(lambda *_, by=by: by), pytest.raises(CorruptSample, match="truncated"):
            decoding.decode(data[: len(data) // 2], "here")


def test_large_pictures_are_one_block_of_memory_and_are_not_copied():
    image = Image.new("RGB", (4000, 3000))
    assert lending.image_of(lending.lend(image)) is image


@pytest.mark.parametrize("settings", [{}, {"scale": (0.2, 0.5)}, {"scale": (1.0, 1.5)}])
def test_views_of_smaller_pictures_show_the_same_windows(folder, decoded, settings):
    small, sizes = images(group(folder, **settings)), list(decoded)
    decoded.clear()
    whole = images(group(folder, scaled=False, **settings))
    assert all(max(size) == WIDTH for size in decoded)
    # The first row of a source is made whole, to check it.
    assert {max(size) for size in sizes[1:]} & {WIDTH // 2, WIDTH // 4, WIDTH // 8}
    # Red and green tell the window: half a level is a six-hundredth of the picture.
    inside = slice(4, -4)
    differences = np.abs(small - whole)[:, inside, inside]
    if settings.get("scale", (0, 1))[1] <= 1:
        assert differences.max() <= 4
    assert np.abs((small - whole)[:, inside, inside].mean(axis=(1, 2))).max() < 1.0
    assert not np.array_equal(small, whole)


def windows(transform, rng):
    """(the window that a transform looks at first, the scale that its reduction gives) in a WIDTH x HEIGHT picture."""
    state = rng.bit_generator.state
    by = datasets.reduction_of(transform)(WIDTH, HEIGHT, rng)
    rng.bit_generator.state = state
    return by


CROP = {"fn": "intern_jax.data.make.augment:random_resized_crop", "scale": (0.005, 1.0)}


def test_reduction_is_of_the_window_that_the_transform_then_draws(monkeypatch):
    seen = []
    drawn = augment.crop_box
    monkeypatch.setattr(augment, "crop_box", lambda *given: seen.append(drawn(*given)) or seen[-1])
    transform = labelled.LabelledView(SIZE, view=[CROP])
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    found = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        by = windows(transform, rng)
        transform({"image": picture, "label": 0}, rng)
        asked, used = seen[-2:]
        assert asked == used and by == scaled.factor(*used[2:], SIZE)
        found.add(by)
    assert found == {1, 2, 4, 8}


def test_all_views_of_a_pair_are_no_smaller_than_they_are(monkeypatch):
    seen = []
    drawn = augment.crop_box
    monkeypatch.setattr(augment, "crop_box", lambda *given: seen.append(drawn(*given)) or seen[-1])
    crops = {"count": 2, "size": 32, "view": [CROP]}
    transform = pairs.PairViews(SIZE, view1=[CROP], crops=crops)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        by = windows(transform, rng)
        asked, seen[:] = seen[-4:], []
        transform({"image": picture, "texts": ["a"], "key": "k"}, rng)
        assert sorted(seen) == sorted(asked)
        sides = [SIZE, SIZE, 32, 32]
        assert by == min(scaled.factor(*b[2:], s) for b, s in zip(asked, sides, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: bind({"fn": CLASSIFICATION, "size": SIZE, "train": False}, 2),
        lambda: bind({"fn": CLASSIFICATION, "size": SIZE, "scaled": False}, 2),
        lambda: labelled.LabelledView(SIZE, train=False),
        lambda: labelled.LabelledView(SIZE, scaled=False),
        # Nothing is known of what comes before the crop.
        lambda: labelled.LabelledView(
            SIZE, view=[{"fn": "intern_jax.data.make.augment:horizontal_flip"}, CROP]
        ),
        lambda: pairs.PairViews(SIZE, train=False),
        lambda: pairs.PairViews(SIZE, scaled=False),
        lambda: pairs.PairViews(SIZE, view1=[CROP], view2=[]),
    ],
)
def test_scored_pictures_and_other_transforms_see_them_whole(make):
    assert windows(make(), np.random.default_rng(0)) == 1


def test_transforms_that_need_whole_pictures_ask_for_nothing():
    for name in ("views:centre_crop", "views:eval_classification"):
        transform = bind({"fn": f"intern_jax.data.make.{name}", "size": SIZE}, 2)
        assert datasets.reduction_of(transform) is None
    assert datasets.reduction_of(lambda sample, _: sample) is None


def test_scored_rows_are_exact(folder):
    rows = images(group(folder, train=False), count=2)
    exact = [views.whole_view(decoding.decode(path, "x"), SIZE) for path in folder.rglob("*.jpg")]
    assert all(any(np.array_equal(row, one) for one in exact) for row in rows)


class Cut:
    """A source of one's own that cuts what another one read: it may not get smaller pictures."""

    family, classes, name = "classification", ("a", "b"), "cut"

    def __init__(self, root):
        self.inside = ImageFolder(root)
        self.keys, self.labels = self.inside.keys, self.inside.labels
        self.shapes = []

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        sample = self.inside[index]
        self.shapes.append(sample["image"].shape)
        return {**sample, "image": np.ascontiguousarray(sample["image"][:300, :300])}


def test_a_source_that_does_not_allow_it_reads_whole_pictures(folder):
    own = Cut(folder)
    images(group(folder), count=1, sources=[own])
    assert {max(shape) for shape in own.shapes} == {WIDTH}
    inner = Replacing(own)
    with scaled.reduced(lambda *_: 8):
        assert max(inner[0]["image"].shape) == 300
        assert max(Replacing(ImageFolder(folder))[0]["image"].shape) == WIDTH // 8
        # Some samples of another source are as that source is.
        assert max(Replacing(Subset(ImageFolder(folder), [1]))[0]["image"].shape) == WIDTH // 8
        assert max(Replacing(Subset(own, [1]))[0]["image"].shape) == 300


def test_rows_depend_on_the_seed_and_index_alone(folder):
    cfg = group(folder)
    alone = images(cfg)
    assert np.array_equal(alone, images(cfg))
    halves = [images(cfg, rows=(h, 2)).reshape(4, 2, SIZE, SIZE, 3) for h in range(2)]
    assert np.array_equal(np.concatenate(halves, axis=1).reshape(alone.shape), alone)
    # Later batches first.
    batches = OpenGroup(cfg).batches(3)
    assert np.array_equal(batches[3]["image"], alone[12:])
    stream = Stream({"cls": cfg}, rows=(0, 1), threads=4)
    with stream.iterate() as some:
        first = np.concatenate([next(some)["cls"]["image"] for _ in range(2)])
    with Stream({"cls": cfg}, rows=(0, 1), threads=1).iterate() as others:
        again = np.concatenate([next(others)["cls"]["image"] for _ in range(2)])
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_worker_processes_make_the_same_rows(folder):
    streams = [Stream({"cls": group(folder)}, rows=(0, 1), workers=n) for n in (0, 2)]
    found = []
    for stream in streams:
        with stream.iterate() as batches:
            found.append([next(batches)["cls"]["image"] for _ in range(3)])
        stream.close()
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_rows_of_pictures_without_jpeg_bytes_are_what_they_were(tmp_path):
    for i in range(4):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        gradient(300, 200).rotate(i).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    cfg = group(tmp_path)
    opened = OpenGroup(cfg)
    transform = datasets.WithSource(opened._transform)
    from intern_jax.data.batches import mixture

    rows = opened._orders(3)[0].random_map(transform, seed=mixture._seed(3, "transform"))
    assert isinstance(rows, grain.MapDataset)
    batches = opened.batches(3)
    made = np.concatenate([batches[i]["image"] for i in range(2)])
    assert np.array_equal(made, [rows[i]["image"] for i in range(8)])


def test_the_generator_of_a_row_stands_where_it_stood():
    rng = np.random.Generator(np.random.Philox(7))
    before = rng.random(3).tolist()
    rng = np.random.Generator(np.random.Philox(7))

    def transform(sample, rng):
        return {"drawn": rng.random(3).tolist(), "by": sample}

    def reduction(_width, _height, rng):
        return int(2 + 0 * rng.random(5).sum())

    def read():
        asked = scaled.asked()
        assert asked is not None
        return asked(10, 10), asked(20, 20)

    row = datasets.Reading(transform, reduction)(read, rng)
    assert row == {"drawn": before, "by": (2, 2)} and scaled.asked() is None


def test_a_window_is_the_same_in_a_smaller_picture():
    assert image_ops.inside((10.0, 20.0, 110.0, 220.0), (400, 800), (100, 100)) == (
        *(2.5, 2.5, 27.5, 27.5),
    )
