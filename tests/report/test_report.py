"""The report of a run, made from files that the test writes: what is drawn, and what is refused."""

import io
import json
import math
import pathlib
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from intern_jax.core import scalars
from intern_jax.core.config import UserError
from intern_jax.core.scalars import Scalar
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
        facts = {"top1": scalars.share("top-1"), **dict.fromkeys(("loss", *terms), scalars.TERM)}
        facts |= dict.fromkeys(("images_per_second", "learning_rate"), Scalar("run"))
        (folder / "scalars.json").write_text(json.dumps(scalars.plain(facts)))
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
        "made": {
            "date": "2026-11-29T15:50:03+01:00",
            "host": "tower",
            "system": "Linux x86_64, 2 cores",
            "devices": "1 x cpu",
            "command": "python -m intern_jax run --config=a&b.py",
            "commit": "954e12a7eb38-dirty",
        },
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
    # Three plots of label efficiency, two of losses, two of accuracies and three grids, all embedded.
    assert text.count("data:image/svg+xml;base64,") == 7
    assert text.count("data:image/webp;base64,") == 3
    assert 'src="http' not in text and "href=" not in text and "<script" not in text
    assert '<td>emoji</td><td class="number">12.3&nbsp;±&nbsp;0.4</td>' in text
    assert aggregate.BARS in text
    assert "damaged.npz: not a picture file" in text and "killed" not in text
    assert "Rooms" in text and "Zero-shot: the three nearest words" in text
    assert "&lt;b&gt;" in text and '<p class="note">A note.</p>' in text


def test_older_results_without_panels_have_a_report_without_that_plot(run_dir):
    path = run_dir / "results.json"
    results = json.loads(path.read_text())
    del results["efficiency"]
    path.write_text(json.dumps(results))
    text = html.write_report(run_dir).read_text()
    assert text.count("data:image") == 7 and "Label efficiency" not in text


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


STEPS = tuple(range(9))
RISING, FALLING = tuple(t / 9 for t in STEPS), tuple(1 - t / 9 for t in STEPS)


def test_scalars_are_drawn_as_what_they_say_they_are_whatever_their_values():
    series = {
        "loss": (STEPS, RISING),  # a run that diverges
        "focal": (STEPS, RISING),
        "pets_top1": (STEPS, FALLING),  # a head that gets worse
        "depth_rmse": (STEPS, FALLING),
        "scale": (STEPS, RISING),
        "learning_rate": (STEPS, RISING),
    }
    facts = {
        **dict.fromkeys(("loss", "focal"), scalars.TERM),
        "pets_top1": scalars.share("top-1", "pets"),
        "depth_rmse": Scalar("measure", "RMSE", "m", higher_is_better=False, of="rooms"),
        "scale": Scalar("state", "scale of the logits"),
        "learning_rate": Scalar("run"),
        "lost": scalars.TERM,  # described, and never logged
    }
    loss, rmse, top1, scale = plots.learning_curves(series, facts)
    assert (loss.title, loss.note) == ("loss", "lower is better ↓")
    assert list(loss.legend) == ["loss", "focal"]
    assert (rmse.title, rmse.note) == ("RMSE", "m, lower is better ↓")
    assert (top1.title, top1.note, list(top1.legend)) == (
        *("top-1", "%, higher is better ↑", ["pets"]),
    )
    assert (scale.title, scale.note) == ("scale of the logits", "")
    # Axes have names and units, as text of the drawing.
    assert "top-1 (%)" in top1.image.decode() and ">step<" in top1.image.decode()
    # A share is shown in percent: its axis reaches 100.
    assert ">100<" in top1.image.decode() and ">100<" not in rmse.image.decode()


def test_measures_of_other_units_or_directions_have_plots_of_their_own():
    series = dict.fromkeys(("a", "b", "c"), (STEPS, RISING))
    facts = {
        "a": Scalar("measure", "error", "m", higher_is_better=False),
        "b": Scalar("measure", "error", "px", higher_is_better=False),
        "c": Scalar("measure", "error", "m", higher_is_better=False),
    }
    drawn = plots.learning_curves(series, facts)
    assert [(plot.note, list(plot.legend)) for plot in drawn] == [
        ("m, lower is better ↓", ["a", "c"]),
        ("px, lower is better ↓", []),
    ]


def test_scalars_that_nobody_described_are_neither_losses_nor_measures(run_dir):
    for path in run_dir.glob("seed0/*/scalars.json"):
        path.unlink()
    text = html.write_report(run_dir).read_text()
    folded = text[text.index("<details><summary>") :]
    assert "scalars that say neither what they are nor which way is better" in folded
    assert "amateur: top1" in folded and "expert_cls: emoji" in folded
    # The total has its name from the training loop of all runs.
    assert text.count("<b>loss</b><span>lower is better ↓</span>") == 2
    plot = plots.undescribed({"x": (STEPS, RISING)}, {})[0]
    assert (plot.title, plot.note) == ("x", "")


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"loss": {"kind": "guess"}}', b"\xff"])
def test_broken_descriptions_are_none(tmp_path, content):
    (tmp_path / "scalars.json").write_bytes(content)
    assert scalars.read(tmp_path / "scalars.json") == {}
    assert scalars.read(tmp_path / "missing.json") == {}


def test_descriptions_come_back_from_their_file(tmp_path):
    facts = {"a": scalars.share("top-1", "pets"), "b": scalars.TERM}
    (tmp_path / "scalars.json").write_text(json.dumps(scalars.plain(facts)))
    assert scalars.read(tmp_path / "scalars.json") == facts


def test_header_says_when_where_how_and_of_which_commit(run_dir):
    text = html.write_report(run_dir).read_text()
    header = text[text.index("<header>") : text.index("</header>")]
    for name, value in (
        ("date", "2026-11-29 15:50 +01:00"),
        ("host", "tower, Linux x86_64, 2 cores, 1 x cpu"),
        ("version", "0.1.0"),
        ("commit", "954e12a7eb38-dirty"),
        ("seed", "0"),
        ("command", "python -m intern_jax run --config=a&amp;b.py"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in header
    assert "2 trained stages · 2 scores on 2 tasks" in header


class Boxes(HTMLParser):
    """The classes of what is around each table and picture, and the pictures' classes of figure."""

    def __init__(self, text):
        super().__init__()
        self.open, self.around = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("table", "img"):
            kinds = [kind for _, kind in self.open]
            self.around.append((tag, "scroll" in kinds, "plots" in kinds, found.get("style")))
        if tag not in ("meta", "img", "br"):
            self.open.append((tag, found.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag


def test_nothing_is_cut_at_any_width(run_dir):
    text = html.write_report(run_dir).read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    around = Boxes(text).around
    tables = [scrolls for tag, scrolls, *_ in around if tag == "table"]
    assert len(tables) == 2 and all(tables)
    for _, scrolls, in_plots, style in (one for one in around if one[0] == "img"):
        # A plot fits a phone; a grid of pictures keeps a least width and scrolls.
        assert in_plots != scrolls and bool(style) == scrolls
    assert ".scroll { overflow-x: auto" in text and "@media (max-width: 640px)" in text
    # The cells of a table may wrap, so that a wide one fits a desk.
    assert "white-space: nowrap" not in text


def test_stages_tell_how_they_ran(run_dir):
    text = html.write_report(run_dir).read_text()
    assert '<th class="number">images per second</th>' in text
    assert text.count('<td class="number">500</td>') == 2


def test_a_long_line_is_thinned_and_keeps_its_peaks():
    steps = tuple(range(10_000))
    values = [1.0] * 10_000
    values[777], values[5_001] = 9.0, -9.0
    thin_steps, thin = plots._thinned((steps, tuple(values)))
    assert len(thin) <= 402 and (thin_steps[0], thin_steps[-1]) == (0, 9_999)
    assert (max(thin), min(thin)) == (9.0, -9.0) and list(thin_steps) == sorted(thin_steps)
    short = (steps[:400], tuple(values[:400]))
    assert plots._thinned(short) == short


def test_many_terms_have_a_mean_instead_of_names(monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "svg", lambda figure: figures.append(figure) or b"")
    series = {f"set_{i}": ((1, 2), (3.0 + i, 2.0 + i)) for i in range(9)}
    series |= {"loss": ((1, 2), (63.0, 54.0)), "weight_set_0": ((1, 2), (1.0, 1.0))}
    facts = dict.fromkeys(series, scalars.TERM) | {"weight_set_0": Scalar("run")}
    (many,) = plots.learning_curves(series, facts)
    (few,) = plots.learning_curves({"loss": ((1,), (2.0,))}, {"loss": scalars.TERM})
    assert list(many.legend) == ["each of 9", "mean"] and few.legend == {}
    lines = figures[0].axes[0].lines
    assert lines[-1].get_ydata().tolist() == [7.0, 6.0] and len(lines) == 10
    # The legend stands outside of the plot.
    assert all(axis.get_legend() is None for figure in figures for axis in figure.axes)
    assert not any(figure.legends for figure in figures)


def test_plots_of_nothing_are_none():
    assert plots.learning_curves({}, {}) == []
    run = {"images_per_second": Scalar("run")}
    assert plots.learning_curves({"images_per_second": ((1,), (2.0,))}, run) == []
    assert plots.efficiency_panels([], {}) == ([], {})
    nothing = make_panels()[0] | {"lines": [{"label": "lost", "points": []}]}
    assert plots.efficiency_panels([nothing], plots.line_looks(["lost"])) == ([], {})


def test_plots_are_the_same_bytes_each_time_and_small():
    series, facts = {"loss": (STEPS, RISING)}, {"loss": scalars.TERM}
    one, two = (plots.learning_curves(series, facts)[0].image for _ in range(2))
    assert one == two and len(one) < 20_000


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
