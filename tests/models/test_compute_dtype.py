"""The compute dtype of a backbone's spec is that of the heads on it, whatever stage or fit they are of."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.models import zoo
from intern_jax.models.heads.deeplab import _DilatedConv
from intern_jax.models.layers.basic import Conv, Dense, DepthwiseConv
from intern_jax.stages.finetune import TaskModel
from intern_jax.stages.frozen_backbone import FrozenBackbone
from intern_jax.tasks.multi_head import MultiHead
from intern_jax.tasks.task import Task
from intern_jax.tasks.teaching.imitator import Imitate, Imitator
from intern_jax.weights.model import Head, Model
from intern_jax.weights.preprocess import Preprocess

SPEC = {"name": "embedded_tiny"}
HALF = zoo.in_dtype(SPEC, "bfloat16")
LAYERS = (Conv, Dense, DepthwiseConv, _DilatedConv)
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
DECODERS = {
    "segmentation": ("panoptic", "deeplabv3"),
    "depth": ("panoptic", "depth"),
    "detection": ("fcos", "faster_rcnn"),
}
# A classifier is computed in at least float32, and so are sums over a softmax.
PRECISE = ("classifier",)


def dtypes(module: nn.Module, *inputs, **call) -> dict[str, jnp.dtype]:
    """{path: dtype of what it gives} of the layers with kernels, without the backbone's; only shapes are computed."""
    keys = jax.eval_shape(lambda: jax.random.key(0))

    def run(key, *inputs):
        made = functools.partial(
            module.init_with_output,
            {"params": key, "dropout": key},
            capture_intermediates=lambda one, _: isinstance(one, LAYERS),
            mutable=True,
        )
        return made(*inputs, **call)[1]["intermediates"]

    found = jax.tree_util.tree_leaves_with_path(jax.eval_shape(run, keys, *inputs))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
    return {name: leaf.dtype for name, leaf in named.items() if not name.startswith("backbone/")}


def check(found: dict[str, jnp.dtype], dtype) -> None:
    """Every layer of the heads gives this dtype; there are some."""
    assert found
    for name, got in found.items():
        expected = jnp.float32 if name.split("/")[-3] in PRECISE else dtype
        assert got == expected, name


@pytest.mark.parametrize(("spec", "dtype"), [(SPEC, jnp.float32), (HALF, jnp.bfloat16)])
@pytest.mark.parametrize(
    ("family", "head"), [(family, head) for family, of in DECODERS.items() for head in of]
)
def test_the_decoder_of_a_fine_tune(family, head, spec, dtype):
    check(dtypes(TaskModel(spec, family, 3, head), IMAGES, train=True), dtype)


@pytest.mark.parametrize(("spec", "dtype"), [(SPEC, jnp.float32), (HALF, jnp.bfloat16)])
def test_the_heads_of_many_data_sets(spec, dtype):
    model = MultiHead(spec, {"a": 3}, {"b": 4}, own_classes={"detection": {"c": 2}}, own_heads={})
    images = {"cls": IMAGES, "dense": IMAGES, "detection": IMAGES}
    found = dtypes(model, images, method=MultiHead.everything)
    check(found, dtype)
    assert {name.split("/")[0] for name in found} == {"heads_a", "decoder", "own_detection_c"}


@pytest.mark.parametrize("form", ["standard", "fitnets", "mgd"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_what_imitates_a_teacher(form, dtype):
    given = {"layer3": jnp.zeros((2, 4, 4, 8)), "layer4": jnp.zeros((2, 2, 2, 8))}
    given |= {"layer1": jnp.zeros((2, 16, 16, 4)), "layer2": jnp.zeros((2, 8, 8, 6))}
    given["pooled"] = jnp.zeros((2, 8))
    wanted = {name: jnp.zeros((*x.shape[:-1], 5)) for name, x in given.items()}
    module = Imitator(Imitate(teachers={"t": []}, form=form), dtype)
    check(
        dtypes(module, teacher="t", student=given, wanted=wanted, train=True), dtype or jnp.float32
    )


@pytest.mark.parametrize(("spec", "dtype"), [(SPEC, jnp.float32), (HALF, jnp.bfloat16)])
def test_a_head_on_a_frozen_backbone_takes_the_backbone_s(spec, dtype):
    stage = FrozenBackbone("depth", 1, head="depth", backbone=Model.random(spec, 0))
    assert (stage.model.dtype or jnp.float32) == dtype


def test_a_head_on_kept_outputs_takes_the_one_it_is_given():
    rows = {
        f"layer{i}": jnp.zeros((2, 32 >> (i + 1), 32 >> (i + 1), 8), jnp.float16)
        for i in range(1, 5)
    }
    for dtype, expected in ((None, jnp.float32), ("bfloat16", jnp.bfloat16)):
        stage = FrozenBackbone("segmentation", 3, size=(32, 32), dtype=dtype)
        features = stage.features({}, rows)
        assert {x.dtype for x in features.values()} == {jnp.dtype(expected)}
        check(dtypes(stage.model, features=features, size=(32, 32), train=True), expected)


@pytest.mark.medium
def test_a_loaded_model_answers_in_its_own_dtype(monkeypatch):
    seen, usual = [], Task.in_dtype

    def watched(self, head, settings, dtype):
        seen.append(dtype)
        return usual(self, head, settings, dtype)

    model = dataclasses.replace(Model.random(HALF, 0), preprocess=Preprocess(32))
    head = Head("depth").build()
    shapes = model.shapes(model.variables, IMAGES)
    features = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    variables = head.init(jax.random.key(0), features, (32, 32))
    model = dataclasses.replace(model, head=Head("depth", variables=variables))
    monkeypatch.setattr(Task, "in_dtype", watched)
    (metres,) = model.predict([np.zeros((32, 32, 3), np.uint8)], batch_size=1)
    assert metres.dtype == np.float32 and seen == [jnp.bfloat16]
