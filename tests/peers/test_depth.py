"""Layer-wise rates, rates of stochastic depth and the moving average of parameters, beside timm's."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.averages import mean
from intern_jax.models import zoo
from intern_jax.train import optim
from intern_jax.train import state as state_lib
from intern_jax.train.stage import Stage
from intern_jax.train.step import make_step

pytestmark = pytest.mark.peers
STEPS, WIDTH, DECAY = 30, 4, 0.7
# {their network: (ours, {their name up to a block: ours})}
NETWORKS = {
    "vit_tiny_patch16_224": (
        "vit_ti_16",
        {
            r"blocks\.(\d+)": r"blocks_\1",
            **{name: name for name in ("cls_token", "patch_embed", "norm")},
            **{"pos_embed": "position_embedding", "head": None},
        },
    ),
    "resnet18": (
        "resnet18",
        {
            r"layer(\d+)\.(\d+)": r"layer\1_\2",
            **{"conv1": "stem_conv", "bn1": "stem_norm", "fc": None},
        },
    ),
}


@pytest.fixture(scope="module")
def walked() -> tuple[np.ndarray, np.ndarray]:
    """Parameters before and after each step of a training, and their average after it."""
    stage = Towards()
    batch = {"rows": {"x": np.zeros((2, WIDTH), np.float32)}}
    tx = optim.build({"name": "sgd", "momentum": 0.5})
    init, _ = state_lib.create(stage, tx, mesh_lib.make_mesh(data=1), batch, ema=True)
    state, step = init(jax.random.key(0)), make_step(stage, tx, 1, DECAY)
    walk, rng = [np.asarray(state.params["w"])], np.random.default_rng(0)
    for _ in range(STEPS):
        rows = {"rows": {"x": rng.normal(size=(2, WIDTH)).astype(np.float32)}}
        state, _ = step(state, {}, rows, jax.random.key(1), {"main": jnp.float32(0.3)})
        walk.append(np.asarray(state.params["w"]))
    return np.stack(walk), np.asarray(state.ema["params"]["w"])


@dataclasses.dataclass(frozen=True)
class Towards(Stage):
    """Parameters that follow the rows."""

    def init(self, key, _batch):
        return {"params": {"w": jax.random.normal(key, (WIDTH,))}}

    def loss(self, context):
        error = context.params["w"][None] - context.batch["rows"]["x"]
        return {"loss": mean(jnp.square(error))}, (context.extra, {})


@pytest.fixture(scope="module")
def theirs(ask, walked) -> dict[str, np.ndarray]:
    return ask("depth", walk=walked[0], decay=np.asarray(DECAY))


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_have_their_share_of_the_rate(theirs, name):
    ours, renamed = NETWORKS[name]
    network = zoo.build({"name": ours})
    image = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
    params = {"backbone": state_lib.unbox(shapes["params"]), "head": {"kernel": 0}}
    above = tree.layers_above(tree.names(params))
    found = {}
    for their_name, scale in zip(theirs[f"{name}/name"], theirs[f"{name}/scale"], strict=True):
        pattern = next(p for p in renamed if re.match(rf"{p}(\.|$)", their_name))
        place = renamed[pattern]
        if place is None:
            mine = ["head/kernel"]
        else:
            place = re.match(pattern, their_name).expand(place)
            mine = [n for n in above if re.match(rf"backbone/{place}(/|$)", n)]
        assert mine, their_name
        for own in mine:
            assert 0.75 ** above[own] == pytest.approx(scale, rel=1e-12), (own, their_name)
            found[own] = scale
    assert found.keys() == above.keys() and len(set(found.values())) == max(above.values()) + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_have_their_rates_of_stochastic_depth(theirs, name):
    network = zoo.build({"name": NETWORKS[name][0], "drop_path": 0.3})
    levels = [f"layer{level}" for level in range(1, 5)]

    found = []

    def collect(module):
        parts = (
            [module.blocks] if hasattr(module, "blocks") else [getattr(module, n) for n in levels]
        )
        found.extend(block.drop_path for part in parts for block in part)

    network.init(jax.random.key(0), method=collect)
    np.testing.assert_allclose(found, theirs[f"{name}/rates"], rtol=1e-6)


def test_the_moving_average_is_theirs_with_our_warm_up(theirs, walked):
    walk, average = walked
    assert np.abs(walk[-1] - average).max() > 0.01
    np.testing.assert_allclose(average, theirs["average"], rtol=1e-5)
