"""Scanned blocks under fsdp: the losses of one device, and never more than one block's parameters gathered."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).parent / "scan_run.py"
BLOCKS = 3
# Unoptimised code: compiling is what costs.
FLAGS = "--xla_backend_optimization_level=0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "remat"), [("metanet", "none"), ("metanet", "blocks"), ("vit", "dots")]
)
def test_meshes_agree_and_gather_a_block_at_a_time(network, remat):
    seen = answer_of(RUN, network, remat, flags=FLAGS)
    alone = seen["loss"].pop("loop")
    assert len(alone) == 3 and len(seen["loss"]) == 3
    for name, losses in seen["loss"].items():
        np.testing.assert_allclose(losses, alone, rtol=1e-5, err_msg=name)
    shapes = {kind: [tuple(s) for s in found] for kind, found in seen["gathers"].items()}
    # The kernel from 16 channels to 3 x 2 heads of 8: gathered in the loop, and never all blocks' together
    # (1: a slice of their stack).
    assert (1, 16, 3, 2, 8) in shapes["inside"]
    assert not [s for s in shapes["all"] if s[:1] == (BLOCKS,) and s[1:] == (16, 3, 2, 8)]
