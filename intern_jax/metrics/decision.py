"""The rule by which every claim of this project is decided, in one place."""

import enum
import math

MARGIN = 1.0  # points
RULE = (
    f"Superior: the lower end of the 95% interval is above 0. Not inferior: it is above -{MARGIN:g} point. Otherwise "
    "undecided."
)


class Decision(enum.StrEnum):
    """What an interval of a mean gain says."""

    SUPERIOR = "superior"
    NOT_INFERIOR = "not inferior"
    UNDECIDED = "undecided"


def decide(lower: float, upper: float) -> Decision:
    """The verdict on a mean gain in points, by RULE, from its 95% interval; NaN is undecided."""
    if lower > upper:
        raise ValueError(f"interval [{lower}, {upper}]: its ends are the wrong way round")
    if math.isnan(lower) or math.isnan(upper):
        return Decision.UNDECIDED
    if lower > 0:
        return Decision.SUPERIOR
    return Decision.NOT_INFERIOR if lower > -MARGIN else Decision.UNDECIDED
