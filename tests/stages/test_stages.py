"""The stages on tiny random batches: terms, gradients, grafts, and the generalist's start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import averages, tree
from intern_jax.core import mesh as mesh_lib
from intern_jax.stages.amateur import Amateur
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.train import loop
from intern_jax.train.stage import Context

TINY = {"name": "embedded_tiny"}
TEXT = {"vocab_size": 64, "context": 8, "width": 32, "layers": 1, "heads": 2}
CLASSES = {"cls": [("letters", 5), ("digits", 3)], "dense": [("scenes", 4), ("rooms", 3)]}
OPTIM = {"learning_rate": 1e-3, "clip_norm": 1.0}


def pairs(rows: int = 8) -> dict:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 60, (rows, 8)).astype(np.int32)
    tokens[:, -1] = 63
    image = rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    return {"pairs": {"image1": image, "image2": image[::-1], "tokens1": tokens, "tokens2": tokens}}


def labelled(rows: int = 8, groups: tuple[str, ...] = ("cls", "dense")) -> dict:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    source = (np.arange(rows) % 2).astype(np.int32)
    depth = rng.uniform(1, 5, (rows, 32, 32)).astype(np.float32)
    batch = {
        "cls": {
            "image": image,
            "label": rng.integers(0, 3, rows).astype(np.int32),
            "source": source,
        },
        "dense": {
            "image": image,
            "mask": rng.integers(0, 3, (rows, 32, 32)).astype(np.uint8),
            "depth": depth,
            "depth_valid": np.repeat(source[:, None, None] == 1, 32, 1).repeat(32, 2),
            "source": source,
        },
    }
    return {group: batch[group] for group in groups}


class Fixed:
    """A stream of one batch."""

    segments = ()

    def faults(self):
        return {}

    def __init__(self, batch):
        self.batch = batch

    def batch_at(self, _step):
        return self.batch

    def iterate(self, _start):
        while True:
            yield self.batch


def fit(stage, batch, steps, source=None):
    cfg = {"steps": steps, "optim": OPTIM, "log_every": 1}
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    return loop.fit(stage, Fixed(batch), cfg, mesh, source=source)


def context(state, batch) -> Context:
    return Context(state.step, state.params, state.extra, {}, {}, batch, jax.random.key(0))


def product(name: str, state) -> dict:
    flat = tree.names({"params": state.params, **state.extra})
    return {f"{name}/{path}": np.asarray(value) for path, value in flat.items()}


@pytest.fixture(scope="module")
def experts() -> dict:
    """Products of two short expert trainings."""
    arrays = {}
    for group in ("cls", "dense"):
        stage = Expert(backbone=TINY, classes={group: CLASSES[group]})
        arrays |= product(group, fit(stage, labelled(groups=(group,)), 3).state)
    return arrays


def test_amateur_learns_a_batch_by_heart():
    stage = Amateur(backbone=TINY, text=TEXT, embed_dim=16, simsiam_hidden=32)
    history = fit(stage, pairs(), 25).history
    assert {"clip", "simsiam", "loss", "retrieval"} <= history[0].keys()
    assert history[-1]["clip"] < history[0]["clip"] - 0.2
    row = history[0]
    np.testing.assert_allclose(row["loss"], row["clip"] + 0.2 * row["simsiam"], rtol=1e-5)


def test_amateur_refuses_accumulation():
    stage = Amateur(backbone=TINY, text=TEXT, embed_dim=16, simsiam_hidden=32)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(Exception, match="couples the rows"):
        loop.Trainer(stage, {"accumulate": 2, "optim": OPTIM}, mesh).abstract(Fixed(pairs()))


def test_expert_starts_from_the_amateurs_backbone():
    amateur = fit(Amateur(backbone=TINY, text=TEXT, embed_dim=16, simsiam_hidden=32), pairs(), 1)
    stage = Expert(backbone=TINY, classes={"cls": CLASSES["cls"]})
    result = fit(stage, labelled(groups=("cls",)), 0, product("backbone", amateur.state))
    assert all("/backbone/" in name for name in result.report.matched)
    assert all("heads" in name for name in result.report.missing)
    ours = tree.names(result.state.params["backbone"])
    theirs = tree.names(amateur.state.params["backbone"])
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value)


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


def test_generalist_is_its_experts_at_step_0(experts):
    classes = CLASSES
    generalist = Generalist(backbone={"name": "generalist", "branch": TINY}, classes=classes)
    result = fit(generalist, labelled(), 0, experts)
    assert all("transfer" in name for name in result.report.missing), result.report.missing
    batch = labelled()
    mine = jax.jit(generalist.predict)(result.state.params, result.state.extra, batch)
    for group in ("cls", "dense"):
        expert = Expert(backbone=TINY, classes={group: classes[group]})
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


def test_generalist_trains_its_transfer_modules(experts):
    stage = Generalist(backbone={"name": "generalist", "branch": TINY}, classes=CLASSES)
    before = tree.names(fit(stage, labelled(), 0, experts).state.params)
    after = tree.names(fit(stage, labelled(), 2, experts).state.params)
    moved = [n for n in before if "transfer" in n and not np.array_equal(before[n], after[n])]
    assert moved
