"""GradCache, optimizer groups, an average and an evaluation give the same on every mesh, whole or in micro-batches."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

RUN = pathlib.Path(__file__).with_name("contract_mesh_run.py")


@pytest.mark.slow
def test_the_contract_on_meshes():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, str(RUN)], capture_output=True, text=True, env=env, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    expected = np.array(seen["1x1x1, 1"], float)
    assert len(seen) == 8 and np.isfinite(expected[[1, 3]]).all()
    assert expected[-1, 0] != expected[0, 0] and expected[-1, 2] > 0
    for name, rows in seen.items():
        np.testing.assert_allclose(
            np.array(rows, float), expected, rtol=2e-5, atol=1e-9, err_msg=name
        )
