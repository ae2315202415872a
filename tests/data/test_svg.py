"""Hostile drawings are refused by cause before they are rendered, in bounded time."""

import time

import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.read import svg
from intern_jax.data.schema.sample import CorruptSample

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def drawing(body: str, more: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {XLINK} viewBox="0 0 16 16" {more}>{body}</svg>'
    )


def bomb(levels: int, copies: int = 10) -> str:
    """Each level reuses the one below several times."""
    inner = '<g id="a0"><path d="M0 0h1v1z"/></g>'
    for level in range(1, levels):
        uses = f'<use href="#a{level - 1}"/>' * copies
        inner += f'<g id="a{level}">{uses}</g>'
    return drawing(f'<defs>{inner}</defs><use href="#a{levels - 1}"/>')


HOSTILE = {
    "use bomb": (bomb(12), "too many parts"),
    "use bomb by xlink": (bomb(12).replace(" href=", " xlink:href="), "too many parts"),
    "reuses itself": (
        drawing('<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>'),
        "damaged drawing",
    ),
    "mask of itself": (
        drawing('<mask id="m"><g mask="url(#m)"/></mask><g mask="url(#m)"/>'),
        "damaged drawing",
    ),
    "entities": ('<!DOCTYPE svg [<!ENTITY a "aaaa">]>' + drawing("<g>&a;</g>"), "damaged drawing"),
    "deep": (drawing("<g>" * 500 + "</g>" * 500), "too many parts"),
    "very deep": (drawing("<g>" * 50_000 + "</g>" * 50_000), "too many parts"),
    "many": (drawing('<path d="M0 0h1"/>' * 30_000), "too many parts"),
    "large": (drawing(f'<path d="{"M0 0h1" * 300_000}"/>'), "too many bytes"),
    "file": (
        drawing('<image href="file:///etc/passwd" width="9" height="9"/>'),
        "unsupported drawing",
    ),
    "address": (drawing('<use href="http://example.com/a.svg#x"/>'), "external reference"),
    "other file": (drawing('<use xlink:href="/etc/hostname#x"/>'), "external reference"),
    "paint of a file": (
        drawing('<path fill="url(file:///a#b)" d="M0 0h9v9z"/>'),
        "external reference",
    ),
    "style of a file": (
        drawing('<path style="fill:url(\'x.svg#b\')" d="M0 0h9v9z"/>'),
        "external reference",
    ),
    "style sheet": (drawing("<style>@import 'x.css';</style>"), "unsupported drawing"),
    "script": (drawing("<script>alert(1)</script>"), "unsupported drawing"),
    "foreign": (drawing("<foreignObject/>"), "unsupported drawing"),
    "text": (drawing("<text>a</text>"), "unsupported drawing"),
    "pattern": (drawing('<pattern id="p"/>'), "unsupported drawing"),
    "dashes": (
        drawing('<path stroke="red" stroke-dasharray="1e-9" d="M0 0h1e9"/>'),
        "too many parts",
    ),
    "dashes in style": (
        drawing('<path style="stroke:red;stroke-dasharray:1e-7" d="M0 0h9"/>'),
        "too many parts",
    ),
    "morphologies": (
        drawing(
            '<filter id="f">'
            + '<feMorphology radius="9"/>' * 500
            + '</filter><g filter="url(#f)"/>'
        ),
        "too many parts",
    ),
    "many dashed lines": (
        drawing('<path stroke="red" stroke-dasharray=".1" d="M0 0h900000"/>' * 200),
        "too many parts",
    ),
    "inherited dashes": (
        drawing('<g stroke="red" stroke-dasharray=".01">' + '<path d="M0 0h99999"/>' * 50 + "</g>"),
        "too many parts",
    ),
    "no xml": ("<svg", "damaged drawing"),
    "nothing": ("", "damaged drawing"),
    "nul": (drawing("\0"), "damaged drawing"),
    "two": (drawing("") * 2, "damaged drawing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_drawings_are_refused_by_cause(name):
    text, cause = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(CorruptSample) as told:
        svg.render(text, 64, "here")
    assert told.value.cause == cause
    assert "\n" not in str(told.value)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "body",
    [
        '<filter id="f"><feGaussianBlur stdDeviation="1e6"/></filter><g filter="url(#f)"><path d="M0 0h9v9z"/></g>',
        '<path d="M0 0L1e30 1e30L-1e30 5z" stroke="red" stroke-width="1e30"/>',
        '<path d="M0 0L' + "nan " * 50 + '"/>',
        '<radialGradient id="g" r="0"><stop offset="-5"/></radialGradient><path fill="url(#g)" d="M0 0h9v9z"/>',
        '<g transform="matrix(0 0 0 0 0 0)"><path d="M0 0h9v9z"/></g>',
    ],
)
def test_odd_numbers_end_soon(body):
    began = time.process_time()
    try:
        assert svg.render(drawing(body), 64, "here").shape == (64, 64, 4)
    except CorruptSample as fault:
        assert fault.cause == "damaged drawing"
    assert time.process_time() - began < 2.0


def test_a_drawing_is_fitted_into_the_square():
    image = svg.render(drawing('<path fill="#ff0000" d="M0 0h8v16H0z"/>'), 32, "here")
    assert image.dtype == np.uint8 and image.shape == (32, 32, 4)
    np.testing.assert_array_equal(image[:, :15], np.broadcast_to([255, 0, 0, 255], (32, 15, 4)))
    assert not image[:, 17:, 3].any()


def test_a_size_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="side: 0"):
        svg.render(drawing(""), 0, "here")
