"""The report of a run, made from files that the test writes: what is drawn, and what is refused."""

import io
import json
import math
import pathlib

import numpy as np
import PIL.Image
import pytest

from intern_jax.core.config import UserError
from intern_jax.metrics import aggregate
from intern_jax.report import html, pictures, plots


def metrics_lines(steps: int, terms: tuple[str, ...]) -> str:
    rows = [
        {"step": t, "images_per_second": 500.0, "learning_rate": 1e-3, "top1": t / (t + 100)}
        | {name: 3 * math.exp(-t / 80) + 0.2 * i for i, name in enumerate(("loss", *terms))}
        for t in range(0, steps, 10)
    ]
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def make_panels() -> list[dict]:
    """Panels of label efficiency: scratch at two shares of the labels, the others at three."""
    level = {"random": 0.35, "amateur": 0.55, "expert": 0.65, "generalist": 0.7, "scratch": 0.45}
    panels = []
    for task, metric, unit, higher in (
        ("emoji_style", "top-1", "%", True),
        ("sprites_seg", "mIoU", "%", True),
        ("paintings", "$\\Delta$ E_00", "", False),  # from outside
    ):
        lines = []
        for method, start in level.items():
            fractions = (0.1, 1.0) if method == "scratch" else (0.01, 0.1, 1.0)
            scores = [start + 0.12 * math.log10(fraction / 0.01) for fraction in fractions]
            scores = scores if higher else [1.4 - score for score in scores]
            points = [[f, score, 0.013] for f, score in zip(fractions, scores, strict=True)]
            lines.append({"label": method, "points": points})
        panels.append(
            {
                "title": task,
                "metric": metric,
                "unit": unit,
                "higher_is_better": higher,
                "lines": lines,
            }
        )
    return panels


def word_arrays(count: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    words = np.array(["grinning cat", "red apple", "sailing boat", "a word that is far too long"])
    return {
        "images": rng.integers(0, 255, (count, 24, 24, 3), np.uint8),
        "words": np.tile(words, (count, 1)),
        "scores": rng.dirichlet(np.ones(4), count),
        "truth": np.array([words[i % 3] for i in range(count)]),
        "title": np.array("Zero-shot: the three nearest words"),
    }


def mask_arrays(count: int = 4) -> dict[str, np.ndarray]:
    images = np.full((count, 48, 48, 3), 200, np.uint8)
    truth = np.zeros((count, 48, 48), np.uint8)
    for i in range(count):
        truth[i, 8 : 20 + 3 * i, 8:28] = 1 + i % 4
        truth[i, 30:44, 20:40] = 2
        images[i][truth[i] > 0] = (90, 120, 60 + 40 * i)
        truth[i, :3] = 255
    classes = np.array(["background", "animals", "food", "travel", "objects"])
    prediction = np.roll(truth, 3, 2) % 255
    return {"images": images, "truth": truth, "prediction": prediction, "classes": classes}


def depth_arrays(count: int = 4) -> dict[str, np.ndarray]:
    y, x = np.mgrid[0:48, 0:48] / 48
    truth = np.stack([1 + 3 * y + 0.4 * i * x for i in range(count)]).astype(np.float32)
    valid = np.ones(truth.shape, bool)
    valid[:, 10:14] = False
    images = np.repeat((truth[..., None] * 40).astype(np.uint8), 3, axis=-1)
    return {"images": images, "truth": truth, "prediction": truth * 1.1, "valid": valid}


@pytest.fixture
def run_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    run = tmp_path / "quickstart"
    stages = []
    for name, terms in (("amateur", ("clip", "simsiam")), ("expert_cls", ("emoji",))):
        folder = run / "seed0" / f"{name}-0123456789ab"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(metrics_lines(300, terms))
        stages.append(
            {
                "name": name,
                "seed": 0,
                "digest": "0123456789ab",
                "steps": 300,
                "seconds": 93.1,
                "graft": "matched 40, missing 2, unused 0",
                "history": str((folder / "metrics.jsonl").relative_to(run)),
            }
        )
    (run / "pictures").mkdir()
    np.savez(run / "pictures" / "zero_shot.npz", **word_arrays())
    np.savez(run / "pictures" / "sprites_seg.npz", **mask_arrays())
    np.savez(run / "pictures" / "rooms_depth.npz", **depth_arrays())
    (run / "pictures" / "killed.tmp.npz").write_bytes(b"PK")
    (run / "pictures" / "damaged.npz").write_bytes(b"PK")
    results = {
        "scores": {
            "head": ["task", "random", "new"],
            "rows": [["emoji", "12.3 ± 0.4", "<b>"]],
            "stub": 1,
            "notes": ["A note."],
        },
        "records": [{"task": "emoji_style"}, {"task": "paintings"}],
        "efficiency": make_panels(),
        "stages": stages,
        "pictures": [{"title": "Rooms", "npz": "pictures/rooms_depth.npz"}],
        "config": {"seeds": [0]},
        "versions": {"intern_jax": "0.1.0"},
        "seconds": 532.0,
    }
    (run / "results.json").write_text(json.dumps(results))
    return run


def size_of(encoded: bytes) -> tuple[int, int]:
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        image.load()
        return image.size


def test_report_holds_table_plots_and_pictures_and_needs_nothing_else(run_dir):
    text = html.write_report(run_dir).read_text()
    # Two plots and three grids, all embedded.
    assert text.count("data:image/png;base64,") == 5
    assert 'src="http' not in text and "href=" not in text and "<script" not in text
    assert '<td>emoji</td><td class="number">12.3 ± 0.4</td>' in text
    assert aggregate.BARS in text
    assert "damaged.npz: not a picture file" in text and "killed" not in text
    assert "Rooms" in text and "Zero-shot: the three nearest words" in text
    assert "&lt;b&gt;" in text and "<p>A note.</p>" in text


def test_older_results_without_panels_have_a_report_without_that_plot(run_dir):
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    del results["efficiency"]
    path.write_text(json.dumps(results))
    text = html.write_report(run_dir).read_text()
    assert text.count("data:image/png;base64,") == 4 and "Label efficiency" not in text


def test_report_is_written_of_a_run_without_benchmark_or_metrics(tmp_path):
    stage = {"name": "amateur", "history": "../secret.jsonl"}
    (tmp_path / "results.json").write_text(json.dumps({"stages": [stage]}))
    (tmp_path.parent / "secret.jsonl").write_text('{"step": 0, "loss": 1}\n')
    text = html.write_report(tmp_path).read_text()
    assert "No metrics file for: amateur" in text
    assert "data:image" not in text


@pytest.mark.parametrize("content", [None, "{broken"])
def test_missing_or_broken_results_are_one_line(tmp_path, content):
    if content:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: .*; "):
        html.write_report(tmp_path)


def test_metrics_of_a_resumed_and_killed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.0}\n{"step": 2, "loss": 3.0}\n'
        '{"step": 3, "loss": NaN, "name": "x"}\n{"step": 4, "lo'
    )
    assert plots.read_metrics(path) == {"loss": ((1, 2), (5.0, 3.0))}


def test_accuracies_are_told_from_losses():
    steps = tuple(range(9))
    rising, falling = tuple(t / 9 for t in steps), tuple(1 - t / 9 for t in steps)
    assert plots._is_measure("top1", (steps, rising))
    assert not plots._is_measure("l1_log", (steps, falling))
    assert not plots._is_measure("clip", (steps, tuple(3 * v for v in rising)))
    assert not plots._is_measure("loss", (steps, rising))


def test_many_terms_have_a_mean_instead_of_names(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "png", lambda figure: drawn.append(figure) or b"")
    series = {f"set_{i}": ((1, 2), (3.0 + i, 2.0 + i)) for i in range(9)}
    series |= {"loss": ((1, 2), (63.0, 54.0)), "weight_set_0": ((1, 2), (1.0, 1.0))}
    series |= {"cls_lost_rows": ((1, 2), (0.0, 0.0))}
    plots.learning_curves({"expert": series, "few": {"loss": ((1,), (2.0,))}})
    many, few = drawn[0].axes
    assert [text.get_text() for text in many.get_legend().get_texts()] == ["each of 9", "mean"]
    assert many.lines[-1].get_ydata().tolist() == [7.0, 6.0] and len(many.lines) == 10
    assert [text.get_text() for text in few.get_legend().get_texts()] == ["loss"]


def test_plots_of_nothing_are_none():
    assert plots.learning_curves({}) is None
    assert plots.learning_curves({"a": {"images_per_second": ((1,), (2.0,))}}) is None
    assert plots.efficiency_panels([], {}) is None
    nothing = make_panels()[0] | {"lines": [{"label": "lost", "points": []}]}
    assert plots.efficiency_panels([nothing], plots.line_looks(["lost"])) is None


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [(word_arrays(), "label"), (mask_arrays(), "mask"), (depth_arrays(), "map")],
)
@pytest.mark.parametrize("count", [1, 3])
def test_picture_grids_draw_any_number(arrays, kind, count):
    arrays = {k: v[:count] if v.ndim and k != "classes" else v for k, v in arrays.items()}
    assert pictures.kind(arrays) == kind
    width, height = size_of(pictures.render(arrays))
    assert width > 150 and height > 150


def test_texts_with_their_nearest_pictures_are_drawn_and_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 255, (6, 24, 24, 3), np.uint8),
        "kind": np.array("nearest"),
        "texts": np.array(["a red apple", "a text that is " + "very " * 20 + "long"]),
        "scores": rng.random((2, 3)),
        "right": np.array([[True, False, False], [False, False, True]]),
    }
    np.savez(tmp_path / "nearest.npz", **arrays)
    width, height = size_of(pictures.render(pictures.read(tmp_path / "nearest.npz")))
    assert width > height > 150
    np.savez(tmp_path / "broken.npz", **{k: v for k, v in arrays.items() if k != "right"})
    with pytest.raises(UserError, match="no right"):
        pictures.read(tmp_path / "broken.npz")


def test_overlay_darkens_what_is_ignored_and_tells_classes_apart():
    image = np.full((2, 2, 3), 200, np.uint8)
    mask = np.array([[0, 1], [2, 255]])
    out = pictures.overlay(image, mask).astype(int)
    assert out[1, 1].tolist() == [60, 60, 60]
    for a, b in (((0, 0), (0, 1)), ((0, 1), (1, 0)), ((0, 0), (1, 0))):
        assert np.abs(out[a] - out[b]).sum() > 60


def test_picture_files_that_cannot_be_drawn_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.array([object()]))
    with pytest.raises(UserError, match=r"a\.npz: not a picture file"):
        pictures.read(path)
    np.savez(path, images=np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(UserError, match="must be uint8"):
        pictures.read(path)
    np.savez(path, images=np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="needs words"):
        pictures.read(path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="not a picture file"):
        pictures.read(path)
