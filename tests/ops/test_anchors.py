"""Anchors and points of feature maps, against loops that say what the conventions are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from intern_jax.ops.anchors import cell_anchors, grid_anchors, grid_points


def test_cells_have_the_area_of_their_side_and_the_ratio_of_height_to_width():
    cells = cell_anchors([32, 64], [0.5, 1, 2])
    expected = []
    for ratio in (0.5, 1, 2):
        for side in (32, 64):
            width, height = side / ratio**0.5, side * ratio**0.5
            expected.append([-width / 2, -height / 2, width / 2, height / 2])
    np.testing.assert_allclose(cells, expected, rtol=1e-12)
    # Published ones of Faster R-CNN with FPN: 45.25 x 22.63 rounds to 46 x 22.
    np.testing.assert_array_equal(
        cell_anchors([32], [0.5, 1, 2], rounded=True),
        [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]],
    )


def test_anchors_follow_the_order_of_a_head_s_output():
    cells = cell_anchors([10.0, 20.0], [1.0])
    found = np.asarray(grid_anchors(2, 3, 8, cells)).reshape(2, 3, 2, 4)
    for i, j, a in np.ndindex(2, 3, 2):
        x, y, half = 8 * j, 8 * i, [5, 10][a]
        np.testing.assert_array_equal(found[i, j, a], [x - half, y - half, x + half, y + half])


def test_points_are_the_centres_of_their_cells():
    found = np.asarray(grid_points(2, 3, 8)).reshape(2, 3, 2)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[i, j], [8 * j + 4, 8 * i + 4])


def test_a_program_holds_no_table_of_anchors():
    cells = cell_anchors([32], [0.5, 1, 2])
    text = jax.jit(lambda: grid_anchors(200, 334, 4, cells)).lower().as_text()
    assert len(text) < 20_000 and grid_anchors(1, 1, 4, cells).dtype == jnp.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda: cell_anchors([], [1]),
        lambda: cell_anchors([32], [1, 0]),
        lambda: grid_anchors(0, 3, 8, cell_anchors([8], [1])),
        lambda: grid_points(3, 3, 0),
    ],
)
def test_sizes_that_cannot_be(call):
    with pytest.raises(ValueError, match=r"above 0|at least 1"):
        call()
