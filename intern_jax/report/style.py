"""The style that plots, pictures and the page share: colours by role, light axes, small type."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e4e8ec"
# Of answers: right, wrong, and an object that was not found.
RIGHT, WRONG, MISSED = "#0b7a4b", "#b3261e", "#2353b0"
# The ladder from random to generalist goes from grey to blue; methods that it is compared with are warm.
METHOD_COLORS = {
    "random": "#a9b2bc",
    "amateur": "#56b4e9",
    "expert": "#009e73",
    "generalist": "#2353b0",
    "finetune": "#8a4fbe",
    "scratch": "#d55e00",
}
# Colours for other labels; they differ in the common forms of colour blindness.
COLORS = ("#2353b0", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a4fbe", "#6b7785")

_RC: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#c3cad1",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def style() -> AbstractContextManager[None]:
    """A context in which figures have this style; the user's own settings are not changed."""
    return matplotlib.rc_context(_RC)


Look = Mapping[str, Any]  # colour, dash, marker and width of a line, by Matplotlib's names


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A plot with what stands around it as text: its title, a note on its axes, and the legend {name: look}."""

    title: str
    image: bytes
    note: str = ""
    legend: Mapping[str, Look] = dataclasses.field(default_factory=dict)


def svg(figure: Figure) -> bytes:
    """The figure as SVG bytes, the same ones each time; its texts are texts, so that it is small."""
    buffer = io.BytesIO()
    fixed = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "intern_jax"}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata=fixed)
    return buffer.getvalue()


def webp(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as WebP bytes: pictures take a tenth of what they take as PNG."""
    buffer = io.BytesIO()
    options = {"quality": 85, "method": 4}
    figure.savefig(buffer, format="webp", dpi=dpi, facecolor="white", pil_kwargs=options)
    return buffer.getvalue()


def data_uri(encoded: bytes) -> str:
    """A picture as a data URI for an HTML page."""
    kinds = {b"\x89PNG": "png", b"RIFF": "webp", b"<?xm": "svg+xml"}
    return f"data:image/{kinds[encoded[:4]]};base64,{base64.b64encode(encoded).decode()}"
