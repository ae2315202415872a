"""A checkpoint of 8 devices under fsdp goes on on 1, 2, 4, 8, and under data and tensor."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

RUN = pathlib.Path(__file__).with_name("topology_run.py")
# Sums over rows and channels in another order.
TOLERANCE = 1e-5


@pytest.mark.medium
def test_another_topology_goes_on_from_the_same_bits(tmp_path):
    seen = answer_of(RUN, tmp_path)
    assert len(seen) == 7
    expected = seen["1x8x1"]["losses"]
    assert len(expected) == 4
    for name, got in seen.items():
        assert got["differing"] == [] and got["placed"], name
        np.testing.assert_allclose(got["losses"], expected, rtol=TOLERANCE, err_msg=name)
        total, on_one = got["sizes"]
        parts = int(name.split("x")[1])
        assert on_one <= 1.1 * total / parts, name
