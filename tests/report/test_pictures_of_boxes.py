"""Pictures with boxes: what counts as found, false and missed, by hand, and what is drawn of it."""

import io

import numpy as np
import PIL.Image
import pytest

from intern_jax.core.config import UserError
from intern_jax.metrics.detection import Detections, Objects, rank
from intern_jax.report import boxes, pictures
from intern_jax.tasks.detection import TASK

CUP, DOG = 0, 1
BOX = (10, 10, 30, 30)
NEAR = (12, 10, 32, 30)  # IoU .82 with BOX
FAR = (40, 40, 60, 60)


def matched(objects, found):
    """What `match` says of (box, class, ignored) objects and (box, class, score) detections of one picture."""
    there = Objects(
        num_images=1,
        image=np.zeros(len(objects), int),
        boxes=np.array([box for box, _, _ in objects], float),
        labels=np.array([label for _, label, _ in objects], int),
        num_classes=2,
        ignore=np.array([ignored for _, _, ignored in objects], bool),
    )
    seen = Detections(
        image=np.zeros(len(found), int),
        boxes=np.array([box for box, _, _ in found], float),
        scores=np.array([score for _, _, score in found], float),
        labels=np.array([label for _, label, _ in found], int),
    )
    result = boxes.match(there, rank(seen))
    return [array.astype(int).tolist() for array in (result.right, result.passed, result.missed)]


@pytest.mark.parametrize(
    ("objects", "found", "right", "passed", "missed"),
    [
        ([(BOX, CUP, False)], [(NEAR, CUP, 0.9)], [1], [0], [0]),
        ([(BOX, CUP, False)], [(FAR, CUP, 0.9)], [0], [0], [1]),
        # Another class is a false alarm, and the object stays missed.
        ([(BOX, CUP, False)], [(NEAR, DOG, 0.9)], [0], [0], [1]),
        # Of two on one object the surer one is right, whichever fits better.
        ([(BOX, CUP, False)], [(BOX, CUP, 0.5), (NEAR, CUP, 0.9)], [1, 0], [0, 0], [0]),
        # Each takes the free object that it overlaps most.
        (
            [(BOX, CUP, False), (NEAR, CUP, False)],
            [(NEAR, CUP, 0.9), (NEAR, CUP, 0.8)],
            [1, 1],
            [0, 0],
            [0, 0],
        ),
        # An ignored object is neither missed nor found, and passes over all that lies on it.
        ([(BOX, CUP, True)], [], [], [], [0]),
        ([(BOX, CUP, True)], [(BOX, CUP, 0.9), (NEAR, CUP, 0.8)], [0, 0], [1, 1], [0]),
        ([((0, 0, 60, 60), CUP, True)], [(FAR, CUP, 0.9)], [0], [1], [0]),
        ([(BOX, CUP, True)], [(NEAR, DOG, 0.9)], [0], [0], [0]),
        # An object to be found comes before an ignored one that fits better.
        ([(NEAR, CUP, False), (BOX, CUP, True)], [(BOX, CUP, 0.9)], [1], [0], [0, 0]),
        # Just below and at IoU .5.
        ([((0, 0, 10, 10), CUP, False)], [((0, 0, 10, 20.1), CUP, 0.9)], [0], [0], [1]),
        ([((0, 0, 10, 10), CUP, False)], [((0, 0, 10, 20), CUP, 0.9)], [1], [0], [0]),
        ([(BOX, CUP, False), (FAR, DOG, False)], [], [], [], [1, 1]),
        ([], [(BOX, CUP, 0.9)], [0], [0], []),
        ([], [], [], [], []),
    ],
)
def test_matching_by_hand(objects, found, right, passed, missed):
    assert matched(objects, found) == [right, passed, missed]


def box_arrays(count=3, height=48, width=64, places=4, slots=6):
    """Two objects per picture, the second of picture 1 ignored; the first one found, and one false alarm each."""
    rng = np.random.default_rng(0)
    there = np.zeros((count, places, 4), np.float32)
    there[:, 0], there[:, 1] = (4, 4, 24, 24), (30, 20, 50, 44)
    valid = np.tile(np.arange(places) < 2, (count, 1))
    ignore = np.zeros_like(valid)
    ignore[1:2, 1], valid[1:2, 1] = True, False
    found = np.zeros((count, slots, 6), np.float32)
    found[:, 0], found[:, 1] = (5, 4, 25, 24, 0.9, 0), (30, 0, 40, 10, 0.4, 1)
    found[:, 2] = (2, 2, 60, 40, 0.1, 1)
    return {
        "kind": np.array("boxes"),
        "images": rng.integers(0, 255, (count, height, width, 3), np.uint8),
        "boxes": there,
        "box_labels": np.where(valid | ignore, np.arange(places) % 2, -1),
        "box_valid": valid,
        "box_ignore": ignore,
        "detections": found,
        "classes": np.array(["cup", "dog_with_a_very_long_name"]),
    }


def texts(figure):
    """Title of the legend, its entries, and the texts of all cells."""
    (legend,) = figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    cells = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    return legend.get_title().get_text(), entries, cells


def test_the_legend_counts_what_is_drawn_and_the_texts_say_class_and_score():
    title, entries, cells = texts(boxes.draw(box_arrays()))
    assert title == "found 3 of 5, 3 false alarms, scores ≥ 0.40"
    assert entries == ["found", "false alarm", "missed", "ignored"]
    dog = "dog with a very…"
    assert cells[:2] == [["cup", dog], ["cup .90", dog, f"{dog} .40"]]
    assert cells[2:4] == [["cup"], ["cup .90", f"{dog} .40"]]


def test_the_threshold_of_the_file_counts_and_a_single_class_needs_no_name():
    arrays = box_arrays(1) | {"threshold": np.array(0.5), "classes": np.array(["cup"])}
    arrays["box_labels"], arrays["detections"][..., 5] = np.zeros((1, 4), int), 0
    del arrays["box_ignore"]
    title, entries, cells = texts(boxes.draw(arrays))
    assert title == "found 1 of 2, 0 false alarms, scores ≥ 0.50"
    assert entries == ["found", "false alarm", "missed"] and cells == [[], [".90"]]
    lowest = boxes.draw(arrays | {"threshold": np.array(0.0)})
    assert texts(lowest)[0] == "found 1 of 2, 2 false alarms, scores ≥ 0.00"


def test_a_picture_is_drawn_without_the_empty_part_of_its_canvas():
    arrays = box_arrays(1) | {"extent": np.array([[40, 52]])}
    for cell in boxes.draw(arrays).axes:
        assert cell.images[0].get_array().shape == (40, 52, 3)


def test_texts_of_a_crowd_do_not_hide_each_other():
    arrays = box_arrays(1, slots=100)
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 30, (100, 2))
    scores, labels = rng.uniform(0.3, 1, (100, 1)), rng.integers(0, 2, (100, 1))
    arrays["detections"] = np.concatenate([low, low + 14, scores, labels], axis=1)[None]
    figure = boxes.draw(arrays | {"threshold": np.array(0.3)})
    found = figure.axes[1]
    assert len(found.patches) >= 100 and 3 <= len(found.texts) <= 20
    figure.draw_without_rendering()
    sides = [text.get_window_extent() for text in found.texts]
    for i, one in enumerate(sides):
        assert not any(
            min(one.x1, other.x1) - max(one.x0, other.x0) > 1
            and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
            for other in sides[:i]
        )


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_a_file_of_boxes_is_read_and_rendered(tmp_path, count):
    arrays = box_arrays(count)
    np.savez(tmp_path / "boxes.npz", **arrays)
    drawn = pictures.render(pictures.read(tmp_path / "boxes.npz"))
    assert drawn[:4] == b"RIFF" and drawn[8:12] == b"WEBP"
    with PIL.Image.open(io.BytesIO(drawn)) as image:
        assert 400 < image.width < 1400 and image.height < 1600


def test_pictures_without_objects_or_detections_are_drawn():
    arrays = box_arrays(2)
    for name in ("box_valid", "box_ignore", "detections"):
        arrays[name] = np.zeros_like(arrays[name])
    assert texts(boxes.draw(arrays))[0] == "found 0 of 0, 0 false alarms, scores ≥ 0.00"
    assert pictures.render(arrays)[8:12] == b"WEBP"


@pytest.mark.parametrize("name", ["boxes", "box_labels", "box_valid", "detections", "classes"])
def test_a_missing_array_is_one_line(tmp_path, name):
    arrays = box_arrays()
    del arrays[name]
    np.savez(tmp_path / "boxes.npz", **arrays)
    with pytest.raises(UserError, match=rf"no {name}, which a picture of kind 'boxes' needs$"):
        pictures.read(tmp_path / "boxes.npz")


def test_the_task_gives_what_a_picture_needs(tmp_path):
    arrays = box_arrays()
    names = ("boxes", "box_labels", "box_valid", "box_ignore")
    rows = {name: arrays[name] for name in names} | {"extent": np.full((3, 2), 48)}
    found = arrays["detections"]
    shares = np.concatenate([found[..., :4] / 48, found[..., 4:]], axis=-1)
    drawn = TASK.picture(shares, rows, ("cup", "dog"))
    np.testing.assert_allclose(drawn["detections"], found)
    # As many boxes are drawn as there are objects.
    least, real = boxes.as_many(drawn), found[..., 4] > 0
    assert (found[..., 4] >= least).sum() >= min(rows["box_valid"].sum(), real.sum())
    assert (found[..., 4] > least).sum() < rows["box_valid"].sum()
    path = tmp_path / "boxes.npz"
    np.savez(path, images=arrays["images"], kind=TASK.family.answer, **drawn)
    made = pictures.read(path)
    assert {*names, "extent", "detections", "classes"} <= made.keys()
    assert texts(boxes.draw(made))[1] == ["found", "false alarm", "missed", "ignored"]
