"""Model folders of networks that are not in the zoo: they name no code that anything runs."""

import importlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax.core import meta

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.adapt import folder as adapt_folder
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.ops.images import normalise
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.opening import start

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "own_backbone"
SPEC = {"fn": "my_net:MyNet", "width": 4, "features": 8}
PICTURES = np.random.default_rng(7).integers(0, 255, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def net():
    sys.path.insert(0, str(EXAMPLE))
    yield importlib.import_module("my_net").MyNet
    sys.path.remove(str(EXAMPLE))
    sys.modules.pop("my_net")


@pytest.fixture(scope="module")
def variables(net):
    x, rng = jnp.zeros((1, 32, 32, 3)), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: net(4, 8).init(jax.random.key(0), x, train=False))
    return jax.tree.map(
        lambda leaf: np.float32(rng.uniform(0.02, 0.12, leaf.shape)), meta.unbox(shapes)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, variables):
    kernel = np.random.default_rng(0).normal(size=(8, 2))
    head = Head.linear(("cat", "dog"), kernel, np.zeros(2))
    return save_model(
        tmp_path_factory.mktemp("models") / "own", Model(SPEC, variables, "own", head=head)
    )


def test_it_holds_settings_and_a_name_as_text(saved):
    stored = json.loads((saved / "model.json").read_text())["backbone"]
    assert stored == {"own": "my_net:MyNet", "width": 4, "features": 8}
    card = (saved / "card.md").read_text("utf-8")
    assert 'intern_jax.load("THIS_FOLDER", backbone="my_net:MyNet")' in card


def test_load_asks_for_the_function_in_one_line(saved):
    with pytest.raises(
        UserError, match=r"'my_net:MyNet', .*intern_jax.load\(path, backbone=FUNCTION\)"
    ) as error:
        intern_jax.load(saved)
    assert "\n" not in str(error.value)


@pytest.mark.medium
def test_with_its_function_or_module_it_answers(saved, net, variables):
    expected = net(4, 8).apply(variables, normalise(PICTURES), train=False)
    for backbone in (net, net(4, 8), lambda **settings: net(**settings), "my_net:MyNet"):
        model = intern_jax.load(saved, backbone=backbone)
        for output in ("pooled", "layer2"):
            found = model.features(PICTURES, output=output)
            np.testing.assert_allclose(found, expected[output], rtol=1e-4, atol=1e-5)
        answers = model.predict(PICTURES)
        assert len(answers) == 3 and set(answers[0]["scores"]) == {"cat", "dog"}


@pytest.mark.parametrize(
    "backbone, message",
    [
        (lambda **_: zoo.build({"name": "embedded_tiny"}), "weights and model.json"),
        (lambda **_: 3, "made a int; return a Flax module"),
        (lambda **_: 1 / 0, "cannot be made .ZeroDivisionError"),
        (7, "backbone is a int; give a function"),
    ],
)
def test_another_function_is_refused(saved, backbone, message):
    with pytest.raises(UserError, match=message):
        intern_jax.load(saved, backbone=backbone)


def test_a_network_of_the_zoo_takes_no_function(net):
    with pytest.raises(UserError, match="is generalist, of the zoo; give none"):
        intern_jax.load(backbone=net)


HOSTILE = {
    "fn": {"fn": "os:system", "command": "true"},
    "fn beside a name": {"name": "embedded_tiny", "fn": "os:system"},
    "fn in a branch": {"name": "generalist", "branch": {"fn": "os:system"}},
    "fn in one of two": {
        "name": "generalist",
        "branch": {"cls": {"name": "embedded_tiny"}, "dense": {"fn": "os:system"}},
    },
    "own": {"own": "os:system", "command": "true"},
    "own in a branch": {"name": "generalist", "branch": {"own": "os:system"}},
    "own and fn": {"own": "os:system", "fn": "os:system"},
    "own of a file": {"own": "/tmp/x:y"},
    "own of a list": {"own": ["os:system"]},
    "fn below own": {"own": "a:b", "norm": {"fn": "os:system"}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_folder_gets_code_resolved(name, saved, tmp_path, monkeypatch):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    info = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(info | {"backbone": HOSTILE[name]}))

    def resolved(name):
        raise AssertionError(f"{name} was resolved")

    monkeypatch.setattr(config_lib, "resolve", resolved)
    monkeypatch.setattr("os.system", resolved)
    for action in (intern_jax.load, start):
        with pytest.raises(UserError) as error:
            action(tmp_path)
        assert "\n" not in str(error.value)
    assert cli.main(["inspect", f"--checkpoint={tmp_path}"]) in (0, 2)


@pytest.fixture
def flowers(tmp_path):
    rng = np.random.default_rng(0)
    for name, color in (("daisy", 220), ("rose", 60)):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = np.clip(color + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_adapt_and_benchmark_say_what_to_do_and_adapt_does_it(
    saved, flowers, tmp_path_factory, net
):
    with pytest.raises(UserError, match="--backbone=MODULE:NET, benchmark by") as error:
        start(saved)
    assert "\n" not in str(error.value)
    out = tmp_path_factory.mktemp("out") / "flowers"
    result = adapt_folder.adapt_folder(flowers, out, init=saved, backbone="my_net:MyNet", l2=(0.1,))
    assert result["n_train"] == 10
    model = intern_jax.load(out, backbone=net)
    assert model.classes == ("daisy", "rose")
    stored = json.loads((out / "model.json").read_text())["backbone"]
    assert stored == {"own": "my_net:MyNet", "width": 4, "features": 8}
    for backbone in (net, "my_net:MyNet", net(4, 8)):
        made = start(saved, backbone=backbone)
        assert made.spec == SPEC and made.preprocess.canvas == 32
        assert isinstance(made.network, net) and made.name == saved.name


def test_a_branch_that_is_not_there_is_one_line(tmp_path):
    spec = {"name": "generalist", "branch": {"name": "embedded_tiny"}, "branches": ["a", "b"]}
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: zoo.build(spec).init(jax.random.key(0), x, train=False))
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), meta.unbox(shapes))
    model = intern_jax.load(save_model(tmp_path / "m", Model(spec, zeros, "zeros")))
    assert model.features(PICTURES, branch="b").shape == (3, 32)
    with pytest.raises(UserError, match="m: no branch 'cls'; it has a, b: give branch="):
        model.features(PICTURES)
    with pytest.raises(UserError, match="m: no branch 'cls'; it has a, b"):
        start(tmp_path / "m").outputs(PICTURES, "cls", ("pooled",))
