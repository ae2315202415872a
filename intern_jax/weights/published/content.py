"""Which table of a checkpoint holds the weights: training programs keep several, such as those and their average."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.weights.published.torch_names import Unfit

# The keys under which training programs keep a state dict; of several in a file the first counts. Averages over the
# steps (EMA) come first, as in timm: they are what authors evaluate.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "teacher")
WRAPPERS = (
    *AVERAGES,
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "student"),
)


@dataclasses.dataclass(frozen=True)
class Content:
    """The flat state dict {name: array} of a checkpoint; `choices`: per table that was taken, those beside it."""

    state: dict[str, np.ndarray]
    choices: Sequence[tuple[str, Sequence[str]]] = ()

    def summary(self) -> str | None:
        """Which of several tables was taken, and how to take another; None where there was one."""
        told = [
            f"weights {taken!r}, of a file that also holds {', '.join(map(repr, others))}: --weights={others[0]}"
            for taken, others in self.choices
        ]
        return "; ".join(told) or None


def read(content: Mapping[str | int, Any], wanted: str | None = None) -> Content:
    """The state dict in a file's content: under the key `wanted`, a key in WRAPPERS, or the content itself.

    Unfit if no table has that key, or if there are no named arrays.
    """
    tables = {str(key): value for key, value in content.items() if isinstance(value, dict)}
    arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray)}
    known = [key for key in WRAPPERS if key in tables and _holds_arrays(tables[key])]
    if wanted in tables:
        taken, wanted = wanted, None
    elif known:
        taken = known[0]
    elif len(tables) == 1 and not arrays:
        (taken,) = tables
    elif wanted is not None:
        keys = ", ".join(key[:40] for key in list(tables)[:8]) or "none"
        raise Unfit(f"weights: no table {wanted!r:.40} of arrays (its tables: {keys})")
    elif not arrays:
        keys = ", ".join(repr(key)[:40] for key in list(content)[:5]) or "none"
        raise Unfit(f"holds no table of named arrays (its keys: {keys}); name a checkpoint")
    else:
        return Content({str(key): value for key, value in arrays.items()})
    inner = read(tables[taken], wanted)
    others = [key for key in known if key != taken]
    return Content(inner.state, [*([(taken, others)] if others else []), *inner.choices])


def _holds_arrays(table: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(value, np.ndarray) or (isinstance(value, dict) and _holds_arrays(value))
        for value in table.values()
    )
