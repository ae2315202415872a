"""Several scores of one thing as one figure: mean, spread and error over test images, and how tables write them.

All tables and plots of scores use this one notation. NOTE and BARS say to a reader what it shows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

NOTE = (
    "a ± b (c): a is the mean over label draws and backbone seeds. b is half the 95% t-interval of that mean, from "
    "three or more values taken as independent. Two values have their standard deviation instead, written 'sd b'; one "
    "value has neither. c is the standard error of a score over test images."
)
BARS = (
    "Bars are half the 95% t-interval of the mean over label draws and backbone seeds, from three or more values. Two "
    "values have their standard deviation, one value its standard error over test images."
)


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """What n scores of one thing say together; NaN is what is not known.

    mean            of the scores, in the metric's unit
    sd              their standard deviation (n - 1 in the denominator); NaN for one score
    standard_error  of a score over test images, the mean over the n scores
    n               number of scores: label draws times backbone seeds
    """

    mean: float
    sd: float = math.nan
    standard_error: float = math.nan
    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"an aggregate of {self.n} scores; it needs one at least")

    @property
    def interval(self) -> float:
        """Half the 95% t-interval of the mean; NaN below three scores."""
        if self.n < 3:
            return math.nan
        return float(stdtrit(self.n - 1, 0.975)) * self.sd / math.sqrt(self.n)

    @property
    def half_bar(self) -> float:
        """Half an error bar of a plot, as BARS says it; 0 where nothing is known."""
        known = [v for v in (self.interval, self.sd, self.standard_error) if math.isfinite(v)]
        return known[0] if known else 0.0

    def parts(self, digits: int) -> tuple[str, str]:
        """The mean, and what stands behind it, as NOTE says it: ("74.0", "± 3.9 (1.0)")."""
        behind = []
        if math.isfinite(self.interval):
            behind.append(f"± {self.interval:.{digits}f}")
        elif math.isfinite(self.sd):
            behind.append(f"sd {self.sd:.{digits}f}")
        if math.isfinite(self.standard_error):
            behind.append(f"({self.standard_error:.{digits}f})")
        return f"{self.mean:.{digits}f}", " ".join(behind)


def of(scores: Sequence[float], errors: Sequence[float] = ()) -> Aggregate:
    """The aggregate of scores [n], with their standard errors over test images [n] where these are known."""
    values = np.asarray(scores, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    error = float(np.mean(errors)) if len(errors) == len(values) else math.nan
    return Aggregate(float(values.mean()), sd, error, len(values))


def of_figures(figures: Mapping[str, Any]) -> Aggregate:
    """The aggregate of stored figures {"mean", "sd", "standard_error", "n"}; the middle two may be missing or None."""
    sd, error = (
        math.nan if (value := figures.get(name)) is None else float(value)
        for name in ("sd", "standard_error")
    )
    return Aggregate(float(figures["mean"]), sd, error, int(figures.get("n", 1)))
