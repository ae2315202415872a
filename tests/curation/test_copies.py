"""Groups, exact and semantic copies, and which row stays, beside plain loops."""

import numpy as np

from intern_jax.curation import copies


def test_exact_copies_name_the_first_row():
    digests = np.array([[1, 2], [0, 0], [1, 2], [2, 1], [0, 0], [2, 1], [1, 2]], np.uint64)
    np.testing.assert_array_equal(copies.exact(digests), [0, 1, 0, 3, 4, 3, 0])
    assert len(copies.exact(digests[:0])) == 0


def test_groups_are_connected_components():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, (120, 2))
    expected = np.arange(200)
    for _ in range(200):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    np.testing.assert_array_equal(copies.groups(pairs, 200), expected)
    np.testing.assert_array_equal(copies.groups(np.zeros((0, 2), int), 3), [0, 1, 2])
    assert len(copies.groups(np.zeros((0, 2), int), 0)) == 0


def test_the_best_of_each_group_stays():
    groups = np.array([0, 0, 2, 0, 2, 5, 6, 6])
    scores = np.array([1, 3, 2, 3, 2, np.nan, np.nan, -5.0])
    expected = [False, True, True, False, False, True, False, True]
    np.testing.assert_array_equal(copies.keep(groups, scores), expected)


def test_semantic_pairs_are_those_above_the_cosine():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(5, 16))
    embeddings = np.repeat(centres, 8, 0) + rng.normal(size=(40, 16)) * 0.1
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = np.argwhere(np.triu(unit @ unit.T > 0.95, 1))
    found = copies.semantic(embeddings, clusters=1, epsilon=0.05)
    np.testing.assert_array_equal(found, expected)
    clustered = copies.semantic(embeddings * 3, clusters=4, epsilon=0.05, seed=2)
    assert {*map(tuple, clustered)} <= {*map(tuple, expected)}
    np.testing.assert_array_equal(
        clustered, copies.semantic(embeddings * 3, clusters=4, epsilon=0.05, seed=2)
    )
    assert copies.semantic(embeddings[:0], clusters=3, epsilon=0.1).shape == (0, 2)
