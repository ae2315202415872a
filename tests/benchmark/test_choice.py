"""Which settings are tried, in which order, and which is taken; scores are functions of the settings."""

import math

import pytest

from intern_jax.benchmark import choice
from intern_jax.benchmark.choice import Setting
from intern_jax.core.config import UserError

GRID = {
    "learning_rates": [1e-3, 2e-3, 4e-3],
    "weight_decays": [0.05, 0.5],
    "lengths": [1.0, 4.0, 16.0],
    "longest": 64.0,
}


def near(rate: float, decay: float, length: float):
    """A score that is best, 0, at these settings, by the distance in powers of two."""
    wanted = Setting(rate, decay, length)

    def score(setting: Setting) -> float:
        pairs = zip(vars(setting).values(), vars(wanted).values(), strict=True)
        return -sum(abs(math.log2(a / b)) for a, b in pairs)

    return score


def test_rates_and_decays_at_the_shortest_length_then_lengths_with_the_best():
    found = choice.choose(GRID, near(2e-3, 0.5, 4), True)
    tried = [setting for setting, _ in found.tried]
    assert len(set(tried)) == len(tried) == 3 * 2 + 2
    assert {s.length for s in tried[:6]} == {1.0}
    assert tried[6:] == [Setting(2e-3, 0.5, 4.0), Setting(2e-3, 0.5, 16.0)]
    assert found.setting == Setting(2e-3, 0.5, 4.0) and found.budget == "searched"


def test_an_error_is_best_where_it_is_smallest():
    found = choice.choose(GRID, lambda setting: -near(1e-3, 0.05, 4)(setting), False)
    assert found.setting == Setting(1e-3, 0.05, 4.0)


@pytest.mark.parametrize(
    ("best", "limit", "lengths", "chosen", "budget"),
    [
        (16, 1000.0, [1, 4, 16, 64], 16, "searched"),
        (64, 1000.0, [1, 4, 16, 64, 256], 64, "searched"),
        (512, 64.0, [1, 4, 16, 64], 64, "limit"),
        (512, 63.0, [1, 4, 16], 16, "limit"),
        (512, None, [1, 4, 16], 16, "limit"),
        (1, None, [1, 4, 16], 1, "searched"),
    ],
)
def test_while_the_longest_is_the_best_a_longer_one_is_tried(best, limit, lengths, chosen, budget):
    found = choice.choose(GRID | {"longest": limit}, near(1e-3, 0.05, best), True)
    tried = [s.length for s, _ in found.tried if (s.learning_rate, s.weight_decay) == (1e-3, 0.05)]
    assert tried == lengths
    assert (found.setting.length, found.budget) == (chosen, budget)


def test_of_equal_scores_the_shorter_training_is_taken():
    found = choice.choose(GRID, lambda _: 50.0, True)
    assert found.setting == Setting(1e-3, 0.05, 1.0) and found.budget == "searched"


def test_rates_alone_say_that_the_budget_is_short():
    grid = GRID | {"weight_decays": [0.05], "lengths": [1.0], "longest": None}
    found = choice.choose(grid, near(4e-3, 0.05, 16), True)
    assert found.setting == Setting(4e-3, 0.05, 1.0) and found.budget == "one length"


def test_one_length_with_a_limit_is_searched():
    grid = GRID | {"learning_rates": [1e-3], "weight_decays": [0.05], "lengths": [1.0]}
    assert choice.is_open(grid) and not choice.is_open(grid | {"longest": None})
    assert choice.choose(grid, near(1e-3, 0.05, 4), True).setting.length == 4


def test_a_diverged_trial_is_the_worst_and_all_diverged_are_a_mistake():
    def high_rates_diverge(setting: Setting) -> float:
        return math.nan if setting.learning_rate > 1e-3 else 1.0 / setting.length

    for higher_is_better in (True, False):
        found = choice.choose(GRID, high_rates_diverge, higher_is_better)
        assert found.setting.learning_rate == 1e-3
    with pytest.raises(
        UserError, match=r"scratch\.learning_rates: \[0\.001, 0\.002, 0\.004\]: none"
    ):
        choice.choose(GRID, lambda _: math.nan, True)


def test_without_a_trial_the_first_setting_counts():
    assert choice.first(GRID, "few labels") == choice.Choice(
        Setting(1e-3, 0.05, 1.0), (), "few labels"
    )
