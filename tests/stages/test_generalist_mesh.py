"""Generalists of 2, 3 and 4 branches: equal to their experts at step 0 on 1 and 8 devices, restored on another mesh."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).with_name("generalist_mesh_run.py")


@pytest.mark.medium
def test_at_step_0_each_branch_is_its_expert_bit_for_bit():
    seen = answer_of(RUN)
    assert len(seen) == 6 and len(seen["2 branches, 8 devices"]) == 4
    assert all(seen[where][what] for where in seen for what in seen[where]), seen


@pytest.mark.slow
def test_any_number_of_branches_is_restored_on_another_mesh(tmp_path):
    seen = answer_of(RUN, tmp_path)
    assert set(seen) == {"2", "3", "4"}
    for count, found in seen.items():
        assert found["steps"] == [4] and len(found["again"]) == 2
        np.testing.assert_allclose(found["again"], found["whole"], rtol=2e-4, err_msg=count)
