"""Render SVG drawings of icons in bounded time and memory, with resvg.

A drawing is read before it is rendered, and refused unless it is made of ELEMENTS alone. So it opens no file or
address, runs nothing, needs no fonts, and cannot grow: what it reuses is counted as often as it is drawn. The causes:

| cause | the drawing |
|---|---|
| too many bytes | has more than MAX_BYTES characters |
| damaged drawing | is no well-formed XML, has a document type, reuses itself, or resvg refuses it |
| unsupported drawing | has another element than ELEMENTS, such as text, a script or a picture |
| external reference | names anything outside itself |
| too many parts | costs more than MAX_PARTS as drawn (see COSTS), or has more than MAX_DEPTH inside one another |
"""

import re
import xml.etree.ElementTree as ET

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.data.read.decoding import decode
from intern_jax.data.schema.sample import CorruptSample, one_line

MAX_BYTES = 1 << 20
MAX_PARTS = 20_000
MAX_DEPTH = 64
MAX_SIDE = 2048
# Elements that cost as much as so many plain ones. Of 64 pixels, 20 morphologies took a second.
COSTS = {"feMorphology": 1000, "feGaussianBlur": 20, "feDropShadow": 20, "mask": 20, "filter": 20}
PER_DASH = 50  # dashes that cost as much as a plain element
ELEMENTS = frozenset(
    (
        "svg",
        "g",
        "path",
        "circle",
        "ellipse",
        "rect",
        "line",
        "polyline",
        "polygon",
        "use",
        "symbol",
        "defs",
        "title",
        "desc",
        "clipPath",
        "mask",
        "linearGradient",
        "radialGradient",
        "stop",
        "filter",
        "feBlend",
        "feColorMatrix",
        "feGaussianBlur",
        "feFlood",
        "feOffset",
        "feComposite",
        "feMerge",
        "feMergeNode",
        "feMorphology",
        "feDropShadow",
        "animate",
        "animateTransform",
        "animateMotion",
        "mpath",
        "set",
    )
)
_URL = re.compile(r"url\(\s*['\"]?\s*([^)'\"]*)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def render(svg: str, side: int, where: str) -> np.ndarray:
    """The drawing in a square of `side` pixels: uint8 [side,side,4]. Raises CorruptSample with a cause above."""
    try:
        import resvg_py
    except ImportError as error:
        raise UserError(f"{where}: needs resvg; pip install 'intern-jax[icons]'") from error
    if not 1 <= side <= MAX_SIDE:
        raise UserError(f"side: {side}; give 1 to {MAX_SIDE} pixels")
    check(svg, where)
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    except BaseException as error:
        # A panic in Rust is no Exception.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CorruptSample(where, "damaged drawing", one_line(Exception(str(error)))) from None
    image = decode(bytes(png), where)
    if image.shape != (side, side, 4):
        full = np.full((side, side, 4), 255, np.uint8)
        full[: image.shape[0], : image.shape[1], : image.shape[2]] = image[:side, :side]
        image = full
    return image


def check(svg: str, where: str) -> None:
    """Raise CorruptSample unless the drawing is safe to render."""
    if len(svg) > MAX_BYTES:
        raise CorruptSample(where, "too many bytes", f"{len(svg)}, at most {MAX_BYTES}")
    if "<!" in svg.replace("<!--", "") or "<?xml-stylesheet" in svg:
        raise CorruptSample(
            where, "damaged drawing", "it declares a document type or a style sheet"
        )
    try:
        root = ET.fromstring(svg)
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise CorruptSample(where, "damaged drawing", one_line(error)) from error
    _check_elements(root, where)
    _check_growth(root, where)


def _check_elements(root: ET.Element, where: str) -> None:
    for element in root.iter():
        name = str(element.tag).rpartition("}")[2]
        if name not in ELEMENTS:
            raise CorruptSample(where, "unsupported drawing", f"<{name[:40]}>")
        for attribute, value in element.attrib.items():
            short = attribute.rpartition("}")[2].lower()
            targets = [value.strip()] if short in ("href", "src", "base") else _URL.findall(value)
            outside = [target for target in targets if target.strip() and target.strip()[0] != "#"]
            if outside or "@import" in value:
                raise CorruptSample(where, "external reference", f"{short}={value[:60]!r}")


def _dashes(root: ET.Element) -> float:
    """How long a period of the finest dashes anywhere in the drawing is; 0 where there are none."""
    finest = 0.0
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if "dasharray" in attribute or "dasharray" in value:
                lengths = [abs(float(n)) for n in _NUMBER.findall(value.rpartition("dasharray")[2])]
                period = sum(lengths)
                if period > 0:
                    finest = min(finest or period, period)
    return finest


def _cost(element: ET.Element, period: float) -> int:
    """What drawing an element costs, in plain elements. Dashes are inherited, so the finest may be on any path."""
    cost = COSTS.get(str(element.tag).rpartition("}")[2], 1)
    if period:
        drawn = [
            element.attrib.get(name, "") for name in ("d", "points", "r", "width", "height", "rx")
        ]
        # A line is at most as long as the sum of its coordinates from the ground, there and back.
        length = 2 * sum(abs(float(n)) for text in drawn for n in _NUMBER.findall(text))
        length += sum(abs(float(element.attrib.get(n, 0) or 0)) for n in ("x1", "x2", "y1", "y2"))
        cost += int(min(length / period / PER_DASH, 1e9))
    return cost


def _check_growth(root: ET.Element, where: str) -> None:
    """Count elements as they are drawn: a `use`, mask, clip path or filter draws what it names once more."""
    named = {e.attrib["id"]: e for e in root.iter() if "id" in e.attrib}
    try:
        period = _dashes(root)
    except (ValueError, OverflowError) as error:
        raise CorruptSample(where, "damaged drawing", one_line(error)) from error
    known: dict[int, tuple[int, int]] = {}
    open_now: set[int] = set()

    def size(element: ET.Element, depth: int) -> tuple[int, int]:
        """(elements as drawn, depth as drawn) of an element."""
        mark = id(element)
        if mark in known:
            return known[mark]
        if mark in open_now:
            raise CorruptSample(where, "damaged drawing", "an element reuses itself")
        if depth > MAX_DEPTH:
            raise CorruptSample(
                where, "too many parts", f"more than {MAX_DEPTH} inside one another"
            )
        open_now.add(mark)
        inner = [size(child, depth + 1) for child in [*element, *_reused(element, named)]]
        open_now.discard(mark)
        try:
            total = _cost(element, period) + sum(count for count, _ in inner)
        except (ValueError, OverflowError) as error:
            raise CorruptSample(where, "damaged drawing", one_line(error)) from error
        deepest = 1 + max((deep for _, deep in inner), default=0)
        if total > MAX_PARTS or deepest > MAX_DEPTH:
            raise CorruptSample(where, "too many parts", f"{total} as drawn, {deepest} deep")
        known[mark] = total, deepest
        return known[mark]

    size(root, 0)


def _reused(element: ET.Element, named: dict[str, ET.Element]) -> list[ET.Element]:
    found = []
    for attribute, value in element.attrib.items():
        short = attribute.rpartition("}")[2].lower()
        names = [value.strip()] if short == "href" else _URL.findall(value)
        found += [named[n.strip()[1:]] for n in names if n.strip()[1:] in named]
    return found
