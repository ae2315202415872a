"""Whole train steps of the amateur and its local sub-stage give the same on every mesh, the bank sharded or not."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).with_name("pairs_mesh_run.py")


@pytest.mark.slow
def test_steps_on_meshes():
    seen = answer_of(RUN)
    assert len(seen) == 24
    for name, values in seen.items():
        stage, parts, *_ = name.split(", ")
        alone = seen[f"{stage}, {parts}, (1, 1, 1), False"]
        assert np.isfinite(alone).all() and alone[0] != alone[2]
        np.testing.assert_allclose(values, alone, rtol=3e-5, err_msg=name)
