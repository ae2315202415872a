"""The same training on meshes of 8 forced host devices gives the same numbers, at an eighth."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).parent / "mesh_run.py"


def run(stage: str, accumulate: int) -> dict:
    return answer_of(RUN, stage, accumulate)


def check_losses(seen: dict, tolerance: float) -> None:
    alone = seen.pop("1x1x1")["loss"]
    assert len(alone) == 5 and len(seen) == 3
    for name, got in seen.items():
        np.testing.assert_allclose(got["loss"], alone, rtol=tolerance, err_msg=name)


@pytest.mark.medium
def test_meshes_agree_and_share_the_memory():
    seen = run("small", 1)
    total, held = seen["1x8x1"]["sizes"]["matrices"]
    assert held <= total / 8 * 1.1
    assert all(got["moments_beside"] for got in seen.values())
    # Sums over rows differ in order only: 1.2e-7 is what they differ by.
    check_losses(seen, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "accumulate"), [("small", 2), ("zoo", 1)])
def test_meshes_agree_for_micro_batches_and_a_shipped_backbone(stage, accumulate):
    check_losses(run(stage, accumulate), 1e-4)
