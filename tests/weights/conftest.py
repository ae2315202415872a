"""What the tests here share; pytest's importlib mode adds no folder, so models/torch_state.py is added by hand."""

import json
import pathlib
import sys

import pytest

from intern_jax.weights.published import convert

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "models"))


@pytest.fixture(scope="module")
def trace_once():
    """Shapes of a network are the same in all tests; tracing them is what these take longest for."""
    original, known = convert.backbone_shapes, {}

    def shapes(model, canvas=None):
        key = json.dumps([model, canvas])
        if key not in known:
            known[key] = original(model, canvas)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "backbone_shapes", shapes)
        yield
