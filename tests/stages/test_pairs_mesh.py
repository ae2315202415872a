"""Whole train steps of the amateur and its local sub-stage give the same on every mesh, the bank sharded or not."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

RUN = pathlib.Path(__file__).with_name("pairs_mesh_run.py")


@pytest.mark.slow
def test_steps_on_meshes():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, str(RUN)], capture_output=True, text=True, env=env, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) == 24
    for name, values in seen.items():
        stage, parts, *_ = name.split(", ")
        alone = seen[f"{stage}, {parts}, (1, 1, 1), False"]
        assert np.isfinite(alone).all() and alone[0] != alone[2]
        np.testing.assert_allclose(values, alone, rtol=3e-5, err_msg=name)
