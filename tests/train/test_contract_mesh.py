"""GradCache, optimizer groups, an average and an evaluation give the same on every mesh, whole or in micro-batches."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).with_name("contract_mesh_run.py")


@pytest.mark.slow
def test_the_contract_on_meshes():
    seen = answer_of(RUN)
    expected = np.array(seen["1x1x1, 1"], float)
    assert len(seen) == 8 and np.isfinite(expected[[1, 3]]).all()
    assert expected[-1, 0] != expected[0, 0] and expected[-1, 2] > 0
    for name, rows in seen.items():
        np.testing.assert_allclose(
            np.array(rows, float), expected, rtol=2e-5, atol=1e-9, err_msg=name
        )
