"""Render SVG drawings of icons in bounded time and memory, with resvg.

A drawing is read before it is rendered, and refused unless it is made of ELEMENTS alone. So it opens no file or
address, runs nothing, needs no fonts, and cannot grow: what it reuses is counted as often as it is drawn. The causes:

| cause | the drawing |
|---|---|
| too many bytes | is larger than MAX_BYTES |
| damaged drawing | is no well-formed XML, has a document type, reuses itself, or resvg refuses it |
| unsupported drawing | has another element than ELEMENTS, such as text, a script or a picture |
| external reference | names anything outside itself |
| too many parts | has more than MAX_PARTS elements as drawn, or more than MAX_DEPTH inside one another |
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
# Numbers of dashes are not known before they are drawn: a dash must not be finer than this part of the drawing.
FINEST_DASH = 1e-4
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
            if "dasharray" in short or "dasharray" in value:
                _check_dashes(value, where)


def _check_dashes(value: str, where: str) -> None:
    numbers = [abs(float(n)) for n in _NUMBER.findall(value)]
    if any(0.0 < n < FINEST_DASH for n in numbers) or len(numbers) > 1000:
        raise CorruptSample(where, "too many parts", "dashes")


def _check_growth(root: ET.Element, where: str) -> None:
    """Count elements as they are drawn: a `use`, mask, clip path or filter draws what it names once more."""
    named = {e.attrib["id"]: e for e in root.iter() if "id" in e.attrib}
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
        total = 1 + sum(count for count, _ in inner)
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
