"""Readouts of named branches in a benchmark row: scored as probes by hand are, and refused before data is read."""

import jax
import numpy as np
import pytest
import toy_rows
from toy_rows import bench

from intern_jax.adapt.knn import fit_knn
from intern_jax.adapt.probe import fit_probe
from intern_jax.benchmark import evaluation
from intern_jax.benchmark.settings import Gvb
from intern_jax.core import config as config_lib
from intern_jax.core import schema
from intern_jax.core.config import UserError, load_config
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.weights.model import Model

SPEC = {
    "name": "generalist",
    "branch": {"name": "embedded_tiny"},
    "branches": ["cls", "dense", "people"],
}
L2, K = 0.1, 3


def features(model, split, name):
    rows = eval_arrays(toy_rows.Pictures(split), config_lib.bind(toy_rows.TOYS.transform()))
    seen = {b: model.outputs(rows["image"], b, ("layer4", "pooled")) for b in SPEC["branches"]}
    seen = jax.device_get(seen)
    if name == "pooled:people+dense":
        return np.concatenate([seen["people"]["pooled"], seen["dense"]["pooled"]], axis=1)
    return seen["dense"]["layer4"].mean((1, 2))


@pytest.mark.medium
def test_a_row_is_scored_on_the_branches_and_maps_that_its_heads_name(tmp_path):
    model = Model.random(SPEC, 0)
    pooled, mapped = "pooled:people+dense", "layers:dense@layer4"
    heads = {
        "lbfgs": {"l2": [L2], "readout": pooled},
        "knn": {"k": K, "temperature": 0.07, "readout": mapped},
    }
    checked = schema.checked(
        Gvb,
        {"rows": ["toy_rows:TOYS"], "fractions": [1.0], "heads": {"classification": heads}},
        "config",
    )
    made = bench(toy_rows.TOYS, tmp_path, heads=checked["heads"])
    found = {one.head: one for one in made.frozen({"three": {"cls": model, "dense": model}})}
    assert found["lbfgs"].settings["readout"] == pooled
    assert found["knn"].settings["readout"] == mapped
    train, test = toy_rows.Pictures("train"), toy_rows.Pictures("test")
    probe = fit_probe(features(model, "train", pooled), train.labels, 2, l2_grid=(L2,))
    near = fit_knn(features(model, "train", mapped), train.labels, 2, k=K, temperature=0.07)
    for head, fitted, name in (("lbfgs", probe, pooled), ("knn", near, mapped)):
        logits = np.asarray(fitted.logits(features(model, "test", name)))
        right = 100 * np.mean(logits.argmax(-1) == test.labels)
        assert found[head].score == pytest.approx(right)


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        ("pooled:sky", "knn.readout: 'pooled:sky': no branch 'sky'; it has cls, dense, people"),
        ("layers:cls@layer9", "knn.readout: 'layers:cls@layer9' reads no map 'layer9'; did you"),
    ],
)
def test_a_mistake_in_a_readout_is_one_line_before_a_picture_is_read(
    tmp_path, monkeypatch, readout, message
):
    monkeypatch.delattr(toy_rows.Pictures, "__getitem__")
    monkeypatch.setattr(evaluation, "_backbone", lambda *_: Model.random(SPEC, 0))
    config = load_config("gvb")
    config.rows = ("toy_rows:TOYS",)
    config.heads.classification.knn.readout = readout
    with pytest.raises(UserError, match=f"config.heads.classification.{message}") as error:
        evaluation.evaluate(config, tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
