"""Label factors against values by hand."""

import numpy as np
import pytest

from intern_jax.metrics import label_efficiency

LABEL_COUNTS = [100, 300, 1000]


@pytest.mark.parametrize(
    "scratch, adapted, text",
    [
        ([30, 40, 50], 55, ">10"),
        ([30, 40, 50], 50, "10"),
        ([30, 40, 50], 40, "3"),
        ([30, 40, 50], 30, "1"),
        ([30, 40, 50], 29, "<1"),
        ([30, 40, 50], 35, "1.7"),  # sqrt(3)
        ([30, 40, 38], 39, "2.7"),  # 3 ** .9
        ([30, 28, 50], 28, "<1"),
        ([30, 45, 38], 40, "2.1"),  # 3 ** (2/3): the first crossing
    ],
)
def test_label_equivalence(scratch, adapted, text):
    assert str(label_efficiency.label_equivalence(LABEL_COUNTS, scratch, adapted)) == text
    # The same with losses, with fractions, and in another order.
    negative = [-s for s in scratch]
    factor = label_efficiency.label_equivalence(
        LABEL_COUNTS, negative, -adapted, higher_is_better=False
    )
    assert str(factor) == text
    fractions, scores = [1.0, 0.1, 0.3], [scratch[2], scratch[0], scratch[1]]
    assert str(label_efficiency.label_equivalence(fractions, scores, adapted)) == text


def test_label_equivalence_counts_from_the_adapted_models_labels():
    factor = label_efficiency.label_equivalence(LABEL_COUNTS, [30, 40, 50], 45, adapted_labels=50)
    assert factor.value == pytest.approx(300 * (10 / 3) ** 0.5 / 50) and factor.bound == "="
    assert (
        str(label_efficiency.label_equivalence(LABEL_COUNTS, [3, 4, 5], 6, adapted_labels=10))
        == ">100"
    )
    assert str(label_efficiency.label_equivalence([10, 100], [20.0, 30.0], 25.0, 10)) == "3.2"


def test_label_equivalence_refuses_what_has_no_answer():
    for labels, scores, adapted in (([], [], 1), ([1, 1], [2, 3], 2), ([1, 2], [1, np.nan], 1)):
        with pytest.raises(ValueError):
            label_efficiency.label_equivalence(labels, scores, adapted)
