"""Readouts against their definition: which maps and branches they hold, and where cells begin and end."""

import jax
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.models.heads import readout
from intern_jax.tasks import task as tasks
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}


def outputs(seed, sides=(8, 4, 2, 1)):
    rng = np.random.default_rng(seed)
    maps = {f"layer{i + 1}": rng.normal(size=(3, s, s, 5 + i)) for i, s in enumerate(sides)}
    return maps | {"pooled": rng.normal(size=(3, 7))}


def test_layers_are_the_means_of_all_maps_and_the_vector_of_every_branch():
    one, two = outputs(0), outputs(1)
    found = np.asarray(readout.layers([one, two]))
    expected = [
        np.concatenate([*(x[f"layer{i}"].mean((1, 2)) for i in range(1, 5)), x["pooled"]], axis=1)
        for x in (one, two)
    ]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5)
    assert found.dtype == np.float32


def test_grids_add_four_cells_of_the_two_coarsest_maps_that_have_them():
    one = outputs(0)
    found = np.asarray(readout.grids([one]))
    layers = np.asarray(readout.layers([one]))
    np.testing.assert_array_equal(found[:, : layers.shape[1]], layers)
    cells = [  # of maps with 4 x 4 and 2 x 2 positions; that of one position has none
        one[name].reshape(3, 2, half, 2, half, -1).mean((2, 4)).reshape(3, -1)
        for name, half in (("layer2", 2), ("layer3", 1))
    ]
    np.testing.assert_allclose(found[:, layers.shape[1] :], np.concatenate(cells, 1), rtol=1e-5)


def test_cells_of_an_odd_side_share_the_middle_row_as_in_pytorch():
    assert readout._shares(7).tolist() == [[0.25] * 4 + [0] * 3, [0] * 3 + [0.25] * 4]
    assert readout._shares(2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("side", [32, 45])
def test_a_model_gives_the_readouts_of_all_its_branches(side):
    model = Model.random({"name": "generalist", "branch": TINY}, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    names = ("layer1", "layer2", "layer3", "layer4", "pooled")
    for branch, other in (("cls", "dense"), ("dense", "cls")):
        both = [jax.device_get(model.outputs(images, b, names)) for b in (branch, other)]
        for name, function in readout.READOUTS.items():
            found = model.outputs(images, branch, (name,))[name]
            np.testing.assert_allclose(found, function(both), rtol=1e-4, atol=1e-5)
    single = Model.random(TINY, 0)
    widths = [single.outputs(images, "cls", (name,))[name].shape[1] for name in readout.NAMES]
    assert widths[0] < widths[1] < widths[2]


def test_a_readout_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"head\.settings\.readout: no 'layer'; "):
        tasks.find("classification").check_head("", {"readout": "layer"})
    with pytest.raises(UserError, match=r"head\.settings\.width"):
        tasks.find("classification").check_head("", {"width": 3})
