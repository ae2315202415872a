"""Verdicts at their boundaries."""

import math

import pytest

from intern_jax.metrics.decision import RULE, decide


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (1e-9, 2.0, "superior"),
        (0.0, 2.0, "not inferior"),
        (-1 + 1e-9, 0.5, "not inferior"),
        (-1.0, 5.0, "undecided"),
        (-5.0, -3.0, "undecided"),
        (-math.inf, math.inf, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_a_verdict_is_that_of_the_lower_end(lower, upper, verdict):
    assert decide(lower, upper) == verdict


def test_an_interval_the_wrong_way_round_is_refused_and_the_rule_names_its_margin():
    with pytest.raises(ValueError, match="wrong way round"):
        decide(1.0, 0.0)
    assert "above -1 point" in RULE
