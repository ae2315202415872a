"""The stages on tiny random batches: terms, gradients, grafts, and the generalist's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_batches import CLASSES, OPTIM, TEXT, TINY, Fixed, context, fit, labelled, pairs, trainer

from intern_jax.core import averages, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.train import loop


def product(name: str, state) -> dict:
    flat = tree.names({"params": state.params, **state.extra})
    return {f"{name}/{path}": np.asarray(value) for path, value in flat.items()}


@pytest.fixture(scope="module")
def amateur():
    """25 steps of an amateur on one batch."""
    stage = Amateur(backbone=TINY, text=TEXT, embed_dim=16, simsiam_hidden=32)
    return fit(stage, pairs(), 25)


@pytest.fixture(scope="module")
def experts() -> dict:
    """Products of two short expert trainings."""
    arrays = {}
    for group in ("cls", "dense"):
        stage = Expert(backbone=TINY, classes={group: CLASSES[group]})
        arrays |= product(group, fit(stage, labelled(groups=(group,)), 3).state)
    return arrays


@pytest.fixture(scope="module")
def generalist(experts):
    """A generalist's trainer, and its state before the first step."""
    stage = Generalist(backbone={"name": "generalist", "branch": TINY}, classes=CLASSES)
    made = trainer(stage)
    return made, made.fit(Fixed(labelled()), source=experts, steps=0)


@pytest.mark.medium
def test_amateur_learns_a_batch_by_heart(amateur):
    history = amateur.history
    assert len(history) == 25
    weights = {"clip": 0.4, "simsiam": 0.2, "words": 0.2, "neighbours": 0.2}
    assert {*weights, "loss", "retrieval"} <= history[0].keys()
    assert history[-1]["clip"] < history[0]["clip"] - 0.2
    assert history[-1]["words"] < history[0]["words"] - 0.2
    row = history[0]
    total = sum(weight * row[name] for name, weight in weights.items())
    np.testing.assert_allclose(row["loss"], total, rtol=1e-5)


def test_amateur_refuses_accumulation():
    stage = Amateur(backbone=TINY, text=TEXT, embed_dim=16, simsiam_hidden=32)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(Exception, match="couples the rows"):
        loop.Trainer(stage, {"accumulate": 2, "optim": OPTIM}, mesh).abstract(Fixed(pairs()))


@pytest.mark.medium
def test_expert_starts_from_the_amateurs_backbone(amateur):
    stage = Expert(backbone=TINY, classes={"cls": CLASSES["cls"]})
    result = fit(stage, labelled(groups=("cls",)), 0, product("backbone", amateur.state))
    assert all("/backbone/" in name for name in result.report.matched)
    assert all("heads" in name for name in result.report.missing)
    ours = tree.names(result.state.params["backbone"])
    theirs = tree.names(amateur.state.params["backbone"])
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


@pytest.mark.medium
def test_expert_terms_count_only_their_own_rows():
    stage = Expert(backbone=TINY, classes=CLASSES)
    batch = labelled()
    variables = fit(stage, batch, 0).state
    loss = jax.jit(
        lambda b: {
            n: averages.value(term) for n, term in stage.loss(context(variables, b))[0].items()
        }
    )
    terms = loss(batch)
    assert set(terms) == {"letters", "digits", "scenes", "rooms", "depth"}
    # Another label on a row of source 1 changes that source's term and no other.
    changed = jax.tree.map(np.copy, batch)
    changed["cls"]["label"][1] = (changed["cls"]["label"][1] + 1) % 3
    again = loss(changed)
    assert again["digits"] != terms["digits"]
    for name in ("letters", "scenes", "rooms", "depth"):
        assert again[name] == terms[name]


@pytest.mark.medium
def test_generalist_is_its_experts_at_step_0(generalist, experts):
    made, result = generalist
    assert all("transfer" in name for name in result.report.missing), result.report.missing
    batch = labelled()
    mine = jax.jit(made.stage.predict)(result.state.params, result.state.extra, batch)
    for group in ("cls", "dense"):
        expert = Expert(backbone=TINY, classes={group: CLASSES[group]})
        variables = tree.unflatten(
            {
                name.removeprefix(f"{group}/"): jnp.asarray(value)
                for name, value in experts.items()
                if name.startswith(f"{group}/")
            }
        )
        params = variables.pop("params")
        theirs = jax.jit(expert.predict)(params, variables, {group: batch[group]})
        for name, value in theirs[group].items():
            np.testing.assert_array_equal(mine[group][name], value, err_msg=name)


@pytest.mark.medium
def test_generalist_trains_its_transfer_modules(generalist, experts):
    made, result = generalist
    before = tree.names(result.state.params)
    after = tree.names(made.fit(Fixed(labelled()), source=experts, steps=2).state.params)
    moved = [n for n in before if "transfer" in n and not np.array_equal(before[n], after[n])]
    assert moved
