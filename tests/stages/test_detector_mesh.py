"""A whole train step of Faster R-CNN gives the same on a mesh of 8 devices as on one."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).with_name("detector_mesh_run.py")


@pytest.mark.slow
def test_losses_and_parameters_are_those_of_one_device():
    seen = answer_of(RUN)
    alone = seen.pop("1x1x1")
    assert seen.keys() == {"8x1x1", "2x2x2"} and len(alone["loss"]) == 3
    assert np.isfinite(alone["loss"]).all() and alone["loss"][0] != alone["loss"][2]
    for name, got in seen.items():
        np.testing.assert_allclose(got["loss"], alone["loss"], rtol=1e-5, err_msg=name)
        for path, moved in alone["moved"].items():
            # Sums over rows in another order: a change differs by a small share of the largest of its array, and by
            # two units in the last place of a parameter near 1.
            largest = np.abs(moved).max()
            close = {"rtol": 0, "atol": 1e-3 * largest + 2.4e-7, "err_msg": f"{name}: {path}"}
            np.testing.assert_allclose(got["moved"][path], moved, **close)
            # The head of classes is the one part that a detector does not read.
            assert largest > 0 or path.startswith("backbone/head_"), path
