"""Networks that a config names by code: built, checked in one line, and never from what a folder says."""

import importlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from metanet_fixture import flat

from intern_jax.core.config import UserError
from intern_jax.models import own, zoo
from intern_jax.models.metanet import MetaNet

EXAMPLE = {"fn": "my_net:MyNet", "width": 4, "features": 8}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    root = own.__file__.partition("/intern_jax/models/own.py")[0]
    monkeypatch.syspath_prepend(f"{root}/examples/own_backbone")
    importlib.import_module("my_net")
    yield
    sys.modules.pop("my_net", None)


class Inside(nn.Module):
    """A stage's model, which builds its backbone in setup."""

    spec: dict

    def setup(self):
        self.backbone = zoo.from_config(self.spec)

    def __call__(self, x, train):
        return self.backbone(x, train=train, task="cls")["pooled"]


def test_a_config_names_a_network_as_it_names_one_of_the_zoo():
    net = zoo.from_config(EXAMPLE)
    assert type(net).__name__ == "MyNet" and net.layer_channels == (4, 8, 8, 16)
    assert zoo.from_config({"name": "embedded_tiny"}) == zoo.build({"name": "embedded_tiny"})
    tree = jax.eval_shape(
        lambda x: Inside(EXAMPLE).init(jax.random.key(0), x, train=True), jnp.zeros((2, 32, 32, 3))
    )
    assert {name.split("/")[1] for name in flat(tree)} == {"backbone"}


def test_in_dtype_reaches_every_network_that_takes_one():
    spec = zoo.in_dtype(EXAMPLE, "bfloat16")
    assert zoo.from_config(spec).dtype == jnp.bfloat16
    branch = {"name": "embedded_tiny"}
    one = zoo.in_dtype({"name": "generalist", "branch": branch}, "bfloat16")
    each = {"cls": branch, "dense": branch | {"dtype": "float32"}}
    two = zoo.in_dtype({"name": "generalist", "branch": each}, "bfloat16")
    assert one["branch"]["dtype"] == "bfloat16"
    assert [b["dtype"] for b in two["branch"].values()] == ["bfloat16", "float32"]
    assert zoo.in_dtype({"name": "generalist"}, "bfloat16")["branch"]["dtype"] == "bfloat16"


def broken(**changes):
    """A network like the example with some attribute spoilt."""

    def make(width=4):
        from my_net import MyNet

        return type("Broken", (MyNet,), changes)(width=width)

    return make


def _no_task(_self, _images, train):
    return {"train": train}


def _fewer(_self, images, **_):
    return {"pooled": images.mean((1, 2))}


BROKEN = {
    "no_module": (lambda: 3, "made a int; return a Flax module"),
    "no_strides": (lambda: nn.Dense(3), "layer_strides is None; give four whole numbers"),
    "text": (broken(layer_channels=("a",) * 4), r"layer_channels is \('a', 'a', 'a', 'a'\)"),
    "features": (
        lambda: sys.modules["my_net"].MyNet(features="many"),
        "features is 'many'; give the size",
    ),
    "other_stride": (
        broken(layer_strides=(4, 8, 8, 8)),
        r"layer3 of images .* is \(2, 4, 4, 8\), expe",
    ),
    "no_task": (broken(__call__=_no_task), "fails .TypeError"),
    "fewer": (broken(__call__=_fewer), "layer1 of images .* is missing"),
    "raises": (lambda: 1 / 0, "cannot be made .ZeroDivisionError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_it_lacks_is_one_line(name, monkeypatch):
    function, message = BROKEN[name]
    module = type(sys)("spoilt")
    module.make = function
    monkeypatch.setitem(sys.modules, "spoilt", module)
    with pytest.raises(UserError, match=f"^backbone.fn: .*{message}") as caught:
        zoo.from_config({"fn": "spoilt:make"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"fn": "my_net:MyNett"}, "backbone.fn: .*did you mean MyNet"),
        ({"fn": "no_such_net:Net"}, "backbone.fn: .*no module 'no_such_net'"),
        ({"fn": "my_net:MyNet", "widht": 4}, "backbone.fn: .*did you mean width"),
        (
            {"name": "generalist", "branch": EXAMPLE},
            "backbone.branch: my_net:MyNet has no method level",
        ),
    ],
)
def test_mistakes_in_the_name(spec, message):
    with pytest.raises(UserError, match=message):
        zoo.from_config(spec)


class Branch(MetaNet):
    """A branch of one's own."""


def test_a_generalist_of_own_branches(monkeypatch):
    module = type(sys)("branches")
    module.Branch = Branch
    monkeypatch.setitem(sys.modules, "branches", module)
    tiny = dict(zoo.VARIANTS["embedded_tiny"])
    spec = {
        "name": "generalist",
        "branches": ("cls", "own"),
        "branch": {"cls": {"name": "embedded_tiny"}, "own": {"fn": "branches:Branch", **tiny}},
    }
    net = zoo.from_config(spec)
    tree = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    assert set(tree["params"]) == {"cls", "own", "transfer_cls", "transfer_own"}
    with pytest.raises(UserError, match="only a config can name code"):
        zoo.build(spec)
