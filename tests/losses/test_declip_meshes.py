"""DeCLIP's losses on meshes of 8 forced host devices: every case of test_declip_losses.py, its rows sharded."""

import os
import pathlib
import subprocess
import sys

import pytest

CASES = pathlib.Path(__file__).with_name("test_declip_losses.py")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["8x1x1", "1x8x1", "2x2x2"])
def test_the_reference_on_a_mesh(mesh):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "MESH": mesh}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        cwd=CASES.parents[2],
        env=os.environ | flags,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout
