"""The scalars that a train step returns, with what each of them is."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from clu.metrics import Average

from intern_jax.core import averages
from intern_jax.core.scalars import RUN, TERM, Scalar, Scalars

FACTS: Scalars = {
    "loss": TERM,
    "gradient_norm": Scalar(RUN, "norm of the gradient"),
    "bad_steps": Scalar(RUN, "bad steps in a row", higher_is_better=False),
    "bad_total": Scalar(RUN, "bad steps", higher_is_better=False),
}
RATE = Scalar(RUN, "learning rate")
WEIGHT = Scalar(RUN, "weight of a term")


@jax.tree_util.register_pytree_with_keys_class
class Outputs(Mapping[str, jax.Array]):
    """Scalars by name. `about` says what each is; of the others nobody has said it.

    `about` is no array: a compiled step returns it as it was when the step was traced.
    """

    def __init__(self, values: Mapping[str, Any], about: Scalars):
        self._values, self.about = dict(values), dict(about)

    def __getitem__(self, name: str) -> jax.Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """(names with arrays, (names, what they are)) for jax, in the order and by the names of a dict."""
        names = tuple(sorted(self._values))
        described = tuple((name, self.about[name]) for name in sorted(self.about))
        keyed = tuple((jax.tree_util.DictKey(name), self._values[name]) for name in names)
        return keyed, (names, described)

    @classmethod
    def tree_unflatten(cls, fixed: tuple[Any, ...], values: Sequence[Any]) -> "Outputs":
        """The inverse of `tree_flatten`."""
        names, described = fixed
        return cls(dict(zip(names, values, strict=True)), dict(described))


def about(
    terms: Iterable[str],
    metrics: Mapping[str, Average],
    rates: Iterable[str],
    scaled: Iterable[str],
) -> Scalars:
    """What a step's scalars are. All terms are losses; a metric says itself what it is, or nobody does.

    `rates` names the learning rates as they are logged, and `scaled` the terms whose weights are set while training.
    """
    known = {name: averages.about(metric) for name, metric in metrics.items()}
    return {
        **dict.fromkeys(terms, TERM),
        **{name: one for name, one in known.items() if one is not None},
        **{f"weight_{name}": WEIGHT for name in scaled},
        **dict.fromkeys(rates, RATE),
        **FACTS,
    }
