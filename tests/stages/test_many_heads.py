"""Ten heads of 2 to 115,000 classes in one compilation: the same on meshes of 8 devices as on one, and split there."""

import pathlib

import numpy as np
import pytest
from forced_devices import answer_of

pytestmark = pytest.mark.medium

RUN = pathlib.Path(__file__).with_name("many_heads_run.py")


@pytest.fixture(scope="module")
def seen():
    return answer_of(RUN)


def test_losses_of_each_set_are_those_of_one_device(seen):
    alone = seen["1x1x1"]["history"]
    assert len(alone) == 3 and alone[0]["loss"] != alone[2]["loss"]
    assert len([name for name in alone[0] if name.count("_") == 1 and name != "loss"]) == 10
    assert seen.keys() == {"1x1x1", "8x1x1", "2x2x2", "1x1x8", "1x1x1 all rows"}
    for mesh, got in seen.items():
        for step, row in enumerate(alone):
            assert got["history"][step].keys() == row.keys()
            for name, value in row.items():
                found = got["history"][step][name]
                np.testing.assert_allclose(
                    found, value, rtol=2e-6 * 10**step, err_msg=f"{mesh} {name}"
                )


def test_it_is_one_compilation(seen):
    assert {tuple(got["compilations"]) for got in seen.values()} == {(1,)}


def test_a_classifier_of_many_classes_is_split_over_its_devices(seen):
    shares = {mesh: got["share"] for mesh, got in seen.items()}
    assert shares["1x1x1"] == 1 and shares["2x2x2"] == 1 / 4 and shares["1x1x8"] == 1 / 8
    # Its classes are rounded up to a number that 128 divides, and 115,000 is none.
    assert seen["2x2x2"]["classes"] == 115_072
