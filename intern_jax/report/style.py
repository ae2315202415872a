"""The style that plots, pictures and the page share: colours by role, light axes, small type."""

from __future__ import annotations

import base64
import io
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


def png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG bytes; no display is needed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def data_uri(encoded: bytes) -> str:
    """A PNG as a data URI for an HTML page."""
    return "data:image/png;base64," + base64.b64encode(encoded).decode()
