"""What a stage leaves, and what of it reaches the stages that are bound to it."""

import hashlib
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_stages

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.core.layout import Layout
from intern_jax.pipeline.products import Product, blended, noted, taken
from intern_jax.train.stage import Blend
from intern_jax.train.state import TrainState
from intern_jax.version import __version__
from intern_jax.weights import safetensors

KERNEL = "params/backbone/kernel"


def state(kernel, ema=None):
    extra = {"batch_stats": {"count": jnp.ones(())}, "bank": {"rows": jnp.ones(3)}}
    params = {"backbone": {"kernel": jnp.full(3, kernel)}}
    average = None
    if ema is not None:
        kept = {"batch_stats": {"count": jnp.full((), ema)}}
        average = {"params": {"backbone": {"kernel": jnp.full(3, ema)}}, **kept}
    return TrainState(*[None] * 8).replace(params=params, ema=average, extra=extra)


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
    assert found["batch_stats/count"] == 7.0 and (found["bank/rows"] == 1).all()


def test_what_results_say_of_a_stage(product):
    assert product.summary() == {
        "name": "web",
        "seed": 3,
        "digest": "0123456789ab",
        "history": "seed3/web-0123456789ab/metrics.jsonl",
        "steps": 5,
        "graft": "none",
    }
    written = {"steps": 5, "graft": "none", "sha256": product.sha256}
    assert json.loads((product.files.done).read_text()) == written


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


# --- sums of several roles' arrays -------------------------------------------------------------------


def left(**arrays):
    return types.SimpleNamespace(
        variables={name.replace("__", "/"): x for name, x in arrays.items()}
    )


def soup(**weights):
    made = stage([("params/(.*)", r"soup/params/\1")])
    made.name, made.blends = "last", {"soup": (Blend("params/.*", weights),)}
    return made


def test_a_sum_of_roles_is_what_rules_take_under_its_name():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 4, 3)).astype(np.float32)
    bound = {
        "a": left(params__w=one, params__half=one.astype(jnp.bfloat16), batch_stats__m=one),
        "b": left(params__w=two, params__half=two.astype(jnp.bfloat16)),
    }
    found = taken(bound, soup(a=0.25, b=-1.5))
    assert {n for n in found if n.startswith("soup/")} == {"soup/params/w", "soup/params/half"}
    wanted = 0.25 * one.astype(np.float64) - 1.5 * two.astype(np.float64)
    np.testing.assert_array_equal(found["soup/params/w"], wanted.astype(np.float32))
    assert found["soup/params/half"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found["soup/params/half"].astype(np.float64), wanted, rtol=0.05, atol=0.02
    )
    assert {n for n in found if n.startswith("a/")} == {f"a/{n}" for n in bound["a"].variables}


def test_arrays_that_cannot_be_added_are_named_with_their_role():
    one = np.ones((2, 3), np.float32)
    for two, said in (
        (
            left(params__w=one[:1]),
            r"last\.start\.b: params/w is \(1, 3\), that of 'a' \(2, 3\); bind",
        ),
        (left(batch_stats__w=one), r"last\.start\.b: has no params/w, and 'a' has; bind stages"),
        (left(params__w=one, params__v=one), r"last\.start\.a: has no params/v, and 'b' has"),
    ):
        with pytest.raises(UserError, match=said):
            taken({"a": left(params__w=one), "b": two}, soup(a=0.5, b=0.5))
    with pytest.raises(UserError, match=r"last\.start\.b: has no params/w"):
        taken({"a": left(params__w=one)}, soup(a=0.5, b=0.5))


def test_a_sum_is_found_in_shapes_alone():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    found = blended({"a/params/w": shape, "b/params/w": shape}, soup(a=0.5, b=2.0))
    assert found == {"soup/params/w": [(0.5, shape), (2.0, shape)]}
