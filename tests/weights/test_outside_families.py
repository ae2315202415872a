"""A model of a task family from outside: its folder holds a name as text, and whoever opens it gives the code."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax.core import meta

import intern_jax
from intern_jax import __main__ as cli
from intern_jax import families
from intern_jax.adapt.folder import adapt_folder
from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError
from intern_jax.families import table
from intern_jax.weights.folder import NeedsFamily, save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.opening import start

CODE = """
from intern_jax.families import Family
from intern_jax.models.heads.linear import Linear
from intern_jax.tasks.task import Task


class Brightness(Task):
    name = "brightness"

    def output(self, features, size, num_classes, train, head="", settings=None, rows=None):
        self.check_head(head, settings or {})
        return Linear(1, name="linear")(features["pooled"])

    def finish(self, out):
        return 10 * out

    def answer(self, row, size, classes):
        return {"lux": float(row[0]), "of": size}


TASK = Brightness()
FAMILY = Family("brightness", "BRI", "number", task="my_lights:TASK", title="a light meter")
OTHER = Family("brightness", "BRI", "number", task="my_lights:TASK", title="another")
"""
SPEC = {"name": "embedded_tiny", "features": 8}
PICTURES = np.random.default_rng(7).integers(0, 255, (3, 20, 30, 3), np.uint8)


@pytest.fixture(autouse=True)
def lights(tmp_path, monkeypatch):
    """The author's module can be found; no family of its is known yet."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_lights.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    forget(monkeypatch)
    yield
    sys.modules.pop("my_lights", None)


def forget(monkeypatch):
    """As in a new process: the families that ship, and no others."""
    monkeypatch.setattr(table, "_families", {family.name: family for family in table.SHIPPED})
    monkeypatch.setattr(table, "_outside", {})


@pytest.fixture
def saved(tmp_path, monkeypatch):
    families.add("my_lights:FAMILY")
    model = Model(SPEC, {}, "lights", head=Head("brightness"))
    init = functools.partial(model.build().init_with_output, train=False)
    features, variables = init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    head = model.head.build().init(jax.random.key(1), features, (32, 32))
    head = dataclasses.replace(model.head, variables=meta.unbox(head))
    model = dataclasses.replace(model, variables=meta.unbox(variables), head=head)
    expected = model.predict(PICTURES)
    folder = save_model(tmp_path / "model", model)
    forget(monkeypatch)
    return folder, expected


@pytest.mark.medium
def test_the_folder_holds_its_name_as_text_and_its_card_says_what_it_is(saved):
    head = json.loads((saved[0] / "model.json").read_text())["head"]
    assert head == {
        **{"family": "brightness", "classes": [], "decoder": "", "settings": {}},
        "own": "my_lights:FAMILY",
    }
    card = (saved[0] / "card.md").read_text()
    assert card.startswith("# A light meter of intern_jax") and "[one number]" in card
    assert 'intern_jax.load("THIS_FOLDER", families=["my_lights:FAMILY"])' in card


def test_who_opens_it_gives_the_family_or_knows_it(saved, monkeypatch):
    folder, expected = saved
    with pytest.raises(
        NeedsFamily, match="'brightness' is its author's own, 'my_lights:FAMILY'"
    ) as error:
        intern_jax.load(folder)
    assert "\n" not in str(error.value) and "families=['MODULE:FAMILY']" in str(error.value)
    model = intern_jax.load(folder, families=["my_lights:FAMILY"])
    found = model.predict(PICTURES)
    assert [answer["of"] for answer in found] == [(20, 30)] * 3
    np.testing.assert_allclose(
        [answer["lux"] for answer in found], [answer["lux"] for answer in expected], rtol=1e-5
    )
    pooled = model.features(PICTURES)
    arrays = model.head.variables["params"]["linear"]["classifier"]
    lux = 10 * (pooled @ arrays["kernel"] + arrays["bias"])[:, 0]
    np.testing.assert_allclose([answer["lux"] for answer in found], lux, rtol=1e-4)
    forget(monkeypatch)
    families.add("my_lights:FAMILY")
    assert intern_jax.load(folder).predict(PICTURES) == found


def test_who_starts_from_it_needs_no_family(saved, tmp_path):
    """Only the backbone is used; the new head is a classifier."""
    folder, _ = saved
    model = start(folder)
    assert model.head is None and model.features(PICTURES).shape == (3, 8)
    rng = np.random.default_rng(0)
    for name in ("day", "night"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 128, (20, 20, 3)) + 120 * (name == "day")
            image = PIL.Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "data" / name / f"{index}.png")
    adapt_folder(tmp_path / "data", tmp_path / "out", init=folder, l2=(0.1,))
    assert intern_jax.load(tmp_path / "out").classes == ("day", "night")
    assert "brightness" not in families.names()


def test_no_folder_gets_code_resolved(saved, monkeypatch, capsys):
    def resolved(name):
        raise AssertionError(f"{name} was resolved")

    monkeypatch.setattr(config_lib, "resolve", resolved)
    with pytest.raises(NeedsFamily):
        intern_jax.load(saved[0])
    assert cli.main(["inspect", f"--checkpoint={saved[0]}"]) == 0
    assert "my_lights:FAMILY" in capsys.readouterr().out


def test_a_name_that_is_none_is_refused(saved):
    with pytest.raises(UserError, match="my_lights has no 'FAMILI'; did you mean FAMILY"):
        intern_jax.load(saved[0], families=["my_lights:FAMILI"])
    with pytest.raises(UserError, match=r"my_lights:TASK is a Brightness; name an intern_jax\.fam"):
        intern_jax.load(saved[0], families=["my_lights:TASK"])
