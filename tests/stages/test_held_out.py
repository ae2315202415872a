"""The evaluator of held-out data: every sample once, whatever the batch size; the heads by the sources' names."""

import jax
import numpy as np
import pytest

from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.stages.expert import Expert
from intern_jax.stages.held_out import HeldOut
from intern_jax.train import state as state_lib

pytestmark = pytest.mark.medium

TINY = {"name": "embedded_tiny"}
CLASSES = {"cls": [("often", 3), ("seldom", 2)]}


class Pictures:
    """Random pictures with labels, under a name."""

    family, keys, labels = "classification", None, None

    def __init__(self, name: str, classes: int, count: int):
        self.name, self.classes, self.count = name, tuple(map(str, range(classes))), count
        self.keys = [str(i) for i in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((index, self.count))
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return {"image": image, "label": index % len(self.classes), "key": str(index)}


def plain(sample, _rng):
    return {"image": sample["image"], "label": np.int32(sample["label"])}


def data(*sources):
    here = f"{__name__}:"
    made = [{"fn": f"{here}Pictures", **source} for source in sources]
    return {"cls": {"sources": made, "transform": {"fn": f"{here}plain"}}}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This file under its name, as a config names functions."""
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this():
    import types

    module = types.ModuleType(__name__)
    module.__dict__.update(Pictures=Pictures, plain=plain)
    return module


@pytest.fixture(scope="module")
def trained():
    stage = Expert(backbone=TINY, classes=CLASSES)
    images = np.zeros((4, 16, 16, 3), np.uint8)
    label = np.zeros(4, np.int32)
    batch = {"cls": {"image": images, "label": label, "source": label}}
    from intern_jax.train import optim

    init, _ = state_lib.create(stage, optim.build({}), mesh_lib.make_mesh(data=1), batch, ema=False)
    state = jax.device_get(init(jax.random.key(0)))
    return stage, {"params": state.params, **state.extra}


def test_every_sample_counts_once_whatever_the_batch_size(trained):
    stage, variables = trained
    source = {"name": "often", "classes": 3, "count": 11}
    found = [HeldOut(stage, data(source), batch_size=b)(variables) for b in (4, 11, 16)]
    assert set(found[0]) == {"often", "often_top1"}
    for other in found[1:]:
        for name, value in other.items():
            assert value == pytest.approx(found[0][name], rel=1e-5)
    pictures = Pictures("often", 3, 11)
    image = np.stack([pictures[i]["image"] for i in range(11)])
    params, extra = variables["params"], {"batch_stats": variables["batch_stats"]}
    logits = stage.predict(params, extra, {"cls": {"image": image}})["cls"]["often"]
    right = np.asarray(logits).argmax(-1) == np.arange(11) % 3
    assert found[0]["often_top1"] == pytest.approx(right.mean())


def test_a_source_without_a_head(trained):
    with pytest.raises(UserError, match="source 'never' has no head; the stage has: often, seldom"):
        HeldOut(trained[0], data({"name": "never", "classes": 3, "count": 2}))
