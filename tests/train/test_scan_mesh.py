"""Scanned blocks under fsdp: the losses of one device, and never more than one block's parameters gathered."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

RUN = pathlib.Path(__file__).parent / "scan_run.py"
BLOCKS = 3
# Unoptimised code: compiling is what costs.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "remat"), [("metanet", "none"), ("metanet", "blocks"), ("vit", "dots")]
)
def test_meshes_agree_and_gather_a_block_at_a_time(network, remat):
    env = {**os.environ, "XLA_FLAGS": FLAGS, "PYTHONPATH": str(RUN.parents[2])}
    command = [sys.executable, RUN, network, remat]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    alone = seen["loss"].pop("loop")
    assert len(alone) == 3 and len(seen["loss"]) == 3
    for name, losses in seen["loss"].items():
        np.testing.assert_allclose(losses, alone, rtol=1e-5, err_msg=name)
    shapes = {kind: [tuple(s) for s in found] for kind, found in seen["gathers"].items()}
    # The kernel from 16 channels to 3 x 2 heads of 8: gathered in the loop, and never all blocks' together
    # (1: a slice of their stack).
    assert (1, 16, 3, 2, 8) in shapes["inside"]
    assert not [s for s in shapes["all"] if s[:1] == (BLOCKS,) and s[1:] == (16, 3, 2, 8)]
