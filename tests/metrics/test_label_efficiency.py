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


def test_the_ends_of_an_interval_are_replicates_and_may_be_bounds():
    # Scratch rises from 30 to 50 between 100 and 1000 labels: a score of 30 + 20 x is worth 10 ** x.
    shares = np.linspace(-0.1, 1.1, 1001)
    scratch = [np.full(1001, 30.0), np.full(1001, 50.0)]
    ends = label_efficiency.factor_interval([100, 1000], scratch, 30 + 20 * shares)
    assert [str(end) for end in ends] == ["<1", ">10"]
    factor = label_efficiency.LabelFactor(7.2, interval=ends)
    assert str(factor) == "7.2 [<1, >10]"
    inner = np.linspace(0.2, 1.05, 1001)
    low, high = label_efficiency.factor_interval([100, 1000], scratch, 30 + 20 * inner)
    # The 26th and the 976th of 1001 replicates; scratch never reaches the latter's score.
    assert low.value == pytest.approx(10 ** inner[25]) and low.bound == "="
    assert inner[975] > 1 and str(high) == ">10"
    (_, high) = label_efficiency.factor_interval([100, 1000], scratch, 30 + 20 * inner - 1)
    assert high.value == pytest.approx(10 ** (inner[975] - 0.05)) and high.bound == "="
    # A bound is beyond the figure that it names.
    mixed = np.repeat([55.0, 50.0], 50)
    ends = label_efficiency.factor_interval([10, 100], [s[:100] for s in scratch], mixed)
    assert [str(end) for end in ends] == ["10", ">10"]
    # With losses, and with numbers of labels of the adapted model's own.
    turned = label_efficiency.factor_interval(
        [100, 1000], [-s for s in scratch], -(30 + 20 * inner), 50, higher_is_better=False
    )
    assert turned[0].value == pytest.approx(2 * low.value)


def test_an_interval_needs_half_of_the_replicates():
    scratch, adapted = [np.full(10, 30.0), np.full(10, 50.0)], np.full(10, 40.0)
    adapted[:5] = np.nan
    assert label_efficiency.factor_interval([1, 10], scratch, adapted) is None
    adapted[4] = 40.0
    low, high = label_efficiency.factor_interval([1, 10], scratch, adapted)
    assert low == high and str(low) == "3.2"
