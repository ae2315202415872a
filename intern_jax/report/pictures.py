"""Grids of pictures with a model's predictions, from .npz files, as WebP bytes.

A file holds `images` uint8 [N,H,W,3], `kind`, a kind of answer (families/family.py: ANSWERS), and depending on it:

    label    words str [N,K], scores float [N,K], truth str [N]
    number   truth float [N], prediction float [N]
    mask     truth int [N,H,W], prediction int [N,H,W], classes str [C]; 255 is ignored
    map      truth float [N,H,W], prediction float [N,H,W], valid bool [N,H,W] (optional)
    boxes    boxes float [N,M,4] (x1, y1, x2, y2 in pixels), box_labels int [N,M], box_valid bool [N,M],
             detections float [N,D,6] (x1, y1, x2, y2, score, class; score 0 where there is none), classes str [C];
             optional: box_ignore bool [N,M], threshold (the least score drawn), extent int [N,2] (height, width)
    nearest  texts str [T], scores float [T,K], right bool [T,K]: each text with its K nearest pictures, N = T * K

Numbers and maps may have a `unit`, and any file a `title`; both are strings. `read` refuses anything else, and
pickled arrays.
"""

from __future__ import annotations

import pathlib
import textwrap
import zipfile
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from intern_jax.core.config import UserError
from intern_jax.report import boxes
from intern_jax.report.style import INK, MUTED, RIGHT, WRONG, style, webp

IGNORE = 255
_MAX_ROWS = 8
_MAX_WORDS = 18
# Colours of masks; neighbours in the list differ much in hue and lightness. Class 0 is the background.
_MASK_COLORS = (
    *("#8d99a6", "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#00a8b5", "#f032e6"),
    *("#9acd32", "#806000", "#ffc400", "#469990", "#dc9bff", "#9a6324", "#800000", "#1fb98a"),
    *("#808000", "#ff9f80", "#000075", "#1f2933"),
)

Arrays = Mapping[str, np.ndarray]


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a picture file; UserError for a file that `render` cannot draw."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a picture file ({error}); run the stage again") from None
    images = arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UserError(f"{path}: images: must be uint8 [N,H,W,3]; run the stage again")
    found = kind(arrays)
    if found is None:
        raise UserError(f"{path}: holds {', '.join(arrays)}; needs words or truth and prediction")
    if found not in _DRAWN:
        raise UserError(f"{path}: kind {found!r}; drawn are {', '.join(_DRAWN)}")
    for name in _ARRAYS[found]:
        if name not in arrays:
            raise UserError(f"{path}: no {name}, which a picture of kind {found!r} needs")
    return arrays


def kind(arrays: Arrays) -> str | None:
    """The kind of answer that a picture file shows (families/family.py: ANSWERS), or None.

    It is the array "kind". In a file without it, the names and types of the other arrays tell the kind.
    """
    if "kind" in arrays:
        return str(arrays["kind"])
    if {"words", "scores"} <= arrays.keys():
        return "label"
    if {"truth", "prediction"} <= arrays.keys():
        floats = np.issubdtype(arrays["prediction"].dtype, np.floating)
        return "map" if floats else "mask"
    return None


def render(arrays: Arrays) -> bytes:
    """One grid as WebP bytes: at most 18 pictures with words, or 8 rows with maps."""
    draw = _DRAWN[str(kind(arrays))]
    with style(), matplotlib.rc_context({"axes.grid": False}):
        return webp(draw(arrays))


def _words(arrays: Arrays) -> Figure:
    """Each picture above its three best words (the right one in green) and the truth."""
    count = min(len(arrays["images"]), _MAX_WORDS)
    figure, axes = _cells(count)
    truth = arrays.get("truth")
    for i in range(count):
        answer = str(truth[i]) if truth is not None else None
        _show(axes[i], arrays["images"][i])
        _word_lines(axes[i], arrays["words"][i], arrays["scores"][i], answer)
    return figure


def _cells(count: int) -> tuple[Figure, np.ndarray]:
    """A figure and its cells, at least `count`: each has room for a picture with a few lines below."""
    columns = min(count, 6)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.45 * columns + 0.2, 1.95 * rows + 0.1), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
        axis.set_anchor("N")
    return figure, axes


def _word_lines(axis: Axes, words: np.ndarray, scores: np.ndarray, truth: str | None) -> None:
    best = np.argsort(-scores, kind="stable")[:3]
    for line, index in enumerate(best):
        word = str(words[index])
        color = INK if truth is None else RIGHT if word == truth else WRONG if not line else MUTED
        text = f"{textwrap.shorten(word, 17, placeholder='…')} {scores[index]:.2f}"
        weight = "bold" if line == 0 else "normal"
        _below(axis, line, text, color, weight)
    if truth is not None:
        _below(axis, 3, f"is: {textwrap.shorten(truth, 20, placeholder='…')}", INK, "normal")


def _below(axis: Axes, line: int, text: str, color: str, weight: str) -> None:
    axis.annotate(
        text,
        (0.5, 0),
        (0, -3 - 9.5 * line),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=7,
        color=color,
        weight=weight,
    )


def _numbers(arrays: Arrays) -> Figure:
    """Each picture above its predicted number and the true one."""
    count = min(len(arrays["images"]), _MAX_WORDS)
    figure, axes = _cells(count)
    unit = f" {arrays['unit']}" if "unit" in arrays else ""
    for i in range(count):
        _show(axes[i], arrays["images"][i])
        _below(axes[i], 0, f"{arrays['prediction'][i]:.4g}{unit}", INK, "bold")
        _below(axes[i], 1, f"is: {arrays['truth'][i]:.4g}{unit}", INK, "normal")
    return figure


def _mask(arrays: Arrays) -> Figure:
    """Picture, true mask and predicted mask drawn over the picture, with a legend of the visible classes."""
    truth, prediction = arrays["truth"], arrays["prediction"]
    images, truth, prediction = (a[:_MAX_ROWS] for a in (arrays["images"], truth, prediction))
    classes = arrays.get("classes")
    present = [c for c in np.union1d(truth, prediction).tolist() if c != IGNORE]
    figure, axes = _triples(len(images), legend=0.25 * (1 + len(present) // 6))
    for i, image in enumerate(images):
        cells = axes[i]
        _show(cells[0], image)
        _show(cells[1], overlay(image, truth[i]))
        _show(cells[2], overlay(image, np.where(truth[i] == IGNORE, IGNORE, prediction[i])))
    handles = [
        Patch(color=_color(c), label=str(classes[c]) if classes is not None else str(c))
        for c in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def overlay(image_HxWx3: np.ndarray, mask_HxW: np.ndarray) -> np.ndarray:
    """Class colours over the grey picture, uint8 [H,W,3]; ignored pixels are dark."""
    grey = image_HxWx3.astype(float).mean(-1, keepdims=True)
    out = np.repeat(0.3 * grey, 3, axis=-1)
    for index in np.unique(mask_HxW):
        if index != IGNORE:
            color = np.array(matplotlib.colors.to_rgb(_color(int(index)))) * 255
            # The background class is mostly transparent, so that the other classes stand out.
            share = 0.25 if index == 0 else 0.72
            blend = (1 - share) * grey + share * color
            out = np.where((mask_HxW == index)[..., None], blend, out)
    return out.clip(0, 255).astype(np.uint8)


def _color(index: int) -> str:
    return _MASK_COLORS[index % len(_MASK_COLORS)]


def _map(arrays: Arrays) -> Figure:
    """Picture, true map and predicted map, with one colour scale for all."""
    images, truth, prediction = (
        arrays[name][:_MAX_ROWS] for name in ("images", "truth", "prediction")
    )
    # A file without its kind is of depth, as all maps once were: metres, known where they are positive.
    known = np.isfinite(truth) if "kind" in arrays else truth > 0
    valid = arrays["valid"][:_MAX_ROWS] if "valid" in arrays else known
    shown = np.where(valid, truth, np.nan)
    # The true values set the colour scale; a prediction outside it saturates.
    low, high = np.nanpercentile(shown, [1, 99]) if valid.any() else (0.0, 1.0)
    unit = str(arrays.get("unit", "" if "kind" in arrays else "metres"))
    figure, axes = _triples(len(images))
    cmap = matplotlib.colormaps["viridis_r"].with_extremes(bad="#d9dde2")
    for i, image in enumerate(images):
        _show(axes[i][0], image)
        for cell, values in ((axes[i][1], shown[i]), (axes[i][2], prediction[i])):
            drawn = cell.imshow(values, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
            cell.axis("off")
    bar = figure.colorbar(
        drawn,
        ax=axes,
        shrink=0.6,
        aspect=25,
        extend="both",
        label=unit,
    )
    bar.outline.set_visible(False)
    bar.ax.invert_yaxis()
    return figure


def _triples(count: int, legend: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure and its cells [count, 3]; a line holds two triples if there are several."""
    pairs = 2 if count > 1 else 1
    lines = -(-count // pairs)
    figure = Figure(
        figsize=(1.6 * 3 * pairs + 0.6, 1.6 * lines + 0.35 + legend), layout="constrained"
    )
    axes = figure.subplots(lines, 3 * pairs, squeeze=False)
    for position, cell in enumerate(axes[0]):
        cell.set_title(("picture", "truth", "prediction")[position % 3], fontsize=8.5)
    for cell in axes.ravel():
        cell.axis("off")
    return figure, axes.reshape(lines * pairs, 3)


def _nearest(arrays: Arrays) -> Figure:
    """A line per text: the text, and the pictures nearest to it with their scores, the right ones in green."""
    scores, right = arrays["scores"][:_MAX_ROWS], arrays["right"]
    lines, columns = scores.shape
    figure = Figure(figsize=(1.25 * columns + 1.6, 1.45 * lines + 0.1), layout="constrained")
    widths = [1.2, *([1.0] * columns)]
    axes = figure.subplots(lines, 1 + columns, squeeze=False, width_ratios=widths)
    for axis in axes.ravel():
        axis.axis("off")
    for i in range(lines):
        text = textwrap.fill(textwrap.shorten(str(arrays["texts"][i]), 60, placeholder="…"), 16)
        axes[i][0].text(1.0, 0.5, text, ha="right", va="center", fontsize=8.5, color=INK)
        for k in range(columns):
            _show(axes[i][1 + k], arrays["images"][i * columns + k])
            color = RIGHT if right[i][k] else WRONG
            _below(axes[i][1 + k], 0, f"{scores[i][k]:.2f}", color, "normal")
    return figure


def _boxes(arrays: Arrays) -> Figure:
    """Pictures with their objects, each beside the same picture with what was found and missed."""
    by_picture = ("images", "detections", "extent", *boxes.OF_OBJECTS)
    return boxes.draw({n: v[:_MAX_ROWS] if n in by_picture else v for n, v in arrays.items()})


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.axis("off")


_ARRAYS = {
    "label": ("words", "scores"),
    "number": ("truth", "prediction"),
    "mask": ("truth", "prediction"),
    "map": ("truth", "prediction"),
    "boxes": ("boxes", "box_labels", "box_valid", "detections", "classes"),
    "nearest": ("texts", "scores", "right"),
}
_DRAWN = {
    "label": _words,
    "number": _numbers,
    "mask": _mask,
    "map": _map,
    "boxes": _boxes,
    "nearest": _nearest,
}
