"""What a stage leaves, and what of it reaches the stages that are bound to it."""

import hashlib
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
import toy_stages

from intern_jax.core import tree
from intern_jax.core.layout import Layout
from intern_jax.pipeline.products import Product, noted, taken
from intern_jax.version import __version__
from intern_jax.weights import safetensors

KERNEL = "params/backbone/kernel"


def state(kernel, ema=None):
    extra = {"batch_stats": {"count": jnp.ones(())}, "bank": {"rows": jnp.ones(3)}}
    average = None if ema is None else {"backbone": {"kernel": jnp.full(3, ema)}}
    params = {"backbone": {"kernel": jnp.full(3, kernel)}}
    return types.SimpleNamespace(params=params, ema=average, extra=extra)


@pytest.fixture
def product(tmp_path):
    """A product in a folder of a workdir, written by a stage without an average."""
    made = Product("web", 3, "0123456789ab", Layout.of(tmp_path), {"name": "embedded_tiny"})
    made.folder.mkdir(parents=True)
    made.write(toy_stages.First(), state(2.0), {"steps": 5, "graft": "none"})
    return made


def test_what_is_written_is_read(product):
    found = product.variables
    assert found.keys() == {KERNEL, "batch_stats/count"}
    np.testing.assert_array_equal(found[KERNEL], np.full(3, 2.0, np.float32))
    header = safetensors.read_header(product.files.model)
    assert header["__metadata__"] == {"version": __version__}


def test_an_average_of_the_parameters_is_what_is_left(product):
    product.write(toy_stages.Exporting(), state(2.0, ema=7.0), {})
    found = product.variables
    assert found.keys() == {KERNEL, "batch_stats/count", "bank/rows"}
    np.testing.assert_array_equal(found[KERNEL], np.full(3, 7.0, np.float32))


def test_what_results_say_of_a_stage(product):
    assert product.summary() == {
        "name": "web",
        "seed": 3,
        "digest": "0123456789ab",
        "history": "seed3/web-0123456789ab/metrics.jsonl",
        "steps": 5,
        "graft": "none",
    }
    assert json.loads((product.files.done).read_text()) == {"steps": 5, "graft": "none"}


def test_a_checkpoint_notes_the_bytes_that_a_role_was(product):
    content = (product.files.model).read_bytes()
    assert noted({"teacher": product}) == {
        "teacher": {
            "stage": "web",
            "path": "seed3/web-0123456789ab",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    }


def stage(graft):
    made = toy_stages.Student({}, {}, {})
    made.graft = graft
    return made


BACKBONE = (r"params/backbone/(.*)", r"backbone/params/backbone/\1")


def test_what_is_bound_is_taken_under_its_roles_name(product):
    made = stage([BACKBONE])
    found = taken({"backbone": product}, made)
    assert found.keys() == {f"backbone/{KERNEL}", "backbone/batch_stats/count"}
    assert made.frozen == {}
    assert taken({}, made) is None


def test_a_frozen_role_is_read_and_starts_nothing_unless_a_rule_names_it(product):
    bound = {"backbone": product, "teacher": product}
    made = stage([BACKBONE])
    found = taken(bound, made)
    assert {name.partition("/")[0] for name in found} == {"backbone"}
    assert set(tree.names(made.frozen["teacher"])) == {KERNEL, "batch_stats/count"}
    for rule in (
        ("params/(.*)", r"teacher/params/\1"),
        ("params/(teacher|x)/(.*)", r"\1/params/\2"),
    ):
        found = taken(bound, stage([BACKBONE, rule]))
        assert {name.partition("/")[0] for name in found} == {"backbone", "teacher"}, rule
    assert taken({"teacher": product}, stage([BACKBONE])) is None


def test_what_a_stage_has_frozen_of_its_own_stays(product):
    made = stage([BACKBONE])
    made.frozen = {"words": np.ones(2)}
    taken({"teacher": product}, made)
    assert made.frozen.keys() == {"words", "teacher"}
    assert toy_stages.Student.frozen == {}, "of the instance, not of the class"
