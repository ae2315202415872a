"""Recall against its definition over the whole score matrix, in tiles of any size."""

import numpy as np
import pytest

from intern_jax.metrics.retrieval import recall


def by_hand(images, texts, owner, ks):
    """The definition over all scores at once, with ties against the right answer."""
    scores = images @ texts.T
    found = {}
    for k in ks:
        right = []
        for i in np.unique(owner):
            best = scores[i, owner == i].max()
            right.append((scores[i, owner != i] >= best).sum() < k)
        found[f"i2t_r{k}"] = np.mean(right)
        others = [
            (np.delete(scores[:, m], owner[m]) >= scores[owner[m], m]).sum()
            for m in range(len(owner))
        ]
        found[f"t2i_r{k}"] = np.mean([count < k for count in others])
    return found


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
@pytest.mark.parametrize("pictures, texts", [(13, 41), (20, 9), (8, 8)])
def test_tiles_of_any_size_give_the_recall_of_the_whole_matrix(chunk, pictures, texts):
    rng = np.random.default_rng(pictures)
    # Small whole numbers: exact scores and many ties. Some pictures have several texts, and some none.
    a = rng.integers(-2, 3, (pictures, 4)).astype(np.float32)
    b = rng.integers(-2, 3, (texts, 4)).astype(np.float32)
    owner = rng.integers(0, pictures, texts)
    found = recall(a, b, owner, (1, 2, 5), chunk)
    assert found == pytest.approx(by_hand(a, b, owner, (1, 2, 5)))


def test_real_numbers_and_several_texts_per_picture():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 8)).astype(np.float32)
    owner = np.repeat(np.arange(50), 5)
    b = (a[owner] + rng.normal(size=(250, 8))).astype(np.float32)
    shuffled = rng.permutation(250)
    found = recall(a, b[shuffled], owner[shuffled], chunk=16)
    assert found == pytest.approx(by_hand(a, b, owner, (1, 5, 10)))
    assert 0 < found["i2t_r1"] < found["i2t_r10"] <= 1


def test_equal_scores_count_against_the_right_answer():
    collapsed, owner = np.ones((4, 2), np.float32), np.arange(4)
    assert recall(collapsed, collapsed, owner, (1, 3, 4)) == {
        **{"i2t_r1": 0, "i2t_r3": 0, "i2t_r4": 1},
        **{"t2i_r1": 0, "t2i_r3": 0, "t2i_r4": 1},
    }
    # A picture's own texts do not stand before each other.
    texts = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert recall(np.eye(2, dtype=np.float32), texts, np.array([0, 0, 1]), (1,))["i2t_r1"] == 1


def test_rows_that_are_no_numbers_are_never_right():
    a = np.eye(3, dtype=np.float32)
    b = a.copy()
    b[1] = np.nan
    found = recall(a, b, np.arange(3), (1, 3))
    # The NaN text stands before the others' right answers too.
    assert found == {
        "i2t_r1": 0,
        "i2t_r3": pytest.approx(2 / 3),
        "t2i_r1": pytest.approx(2 / 3),
        "t2i_r3": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("owner", [[0, 3], [-1, 0], [0], []])
def test_texts_without_a_picture(owner):
    with pytest.raises(ValueError, match=r"pictures|owners"):
        recall(
            np.zeros((3, 2)),
            np.zeros((max(len(owner), 2) if owner else 0, 2)),
            np.array(owner, int),
        )
