"""Optimizers from plain settings. The learning rate is no part of them: the step multiplies by it.

So a compiled step serves every schedule and length, which adaptation's many short fits rely on.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from intern_jax.core import tree
from intern_jax.core.config import UserError

# Settings with their defaults; `learning_rate` has none.
DEFAULTS = {
    "name": "adamw",
    "weight_decay": 0.0,
    "l2": 0.0,
    "warmup_steps": 0,
    "schedule": "cosine",
    "power": 0.9,
    "end_rate": 0.0,
    "clip_norm": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "momentum": 0.9,
    "lr_multipliers": (),
    "groups": {},
}
SCHEDULES = ("cosine", "constant", "poly")
FREE = (
    "learning_rate",
    "warmup_steps",
    "schedule",
    "power",
    "end_rate",
)  # a compiled step serves any of these


def settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`cfg` with defaults filled in; an unknown field or value is a UserError."""
    for name in cfg:
        if name not in DEFAULTS and name != "learning_rate":
            known = ", ".join(["learning_rate", *DEFAULTS])
            raise UserError(f"optim.{name}: no such field; known: {known}")
    full = DEFAULTS | dict(cfg)
    if full["name"] not in ("adamw", "sgd", "lion"):
        raise UserError(f"optim.name: no optimizer {full['name']!r}; known: adamw, sgd, lion")
    if full["schedule"] not in SCHEDULES:
        raise UserError(f"optim.schedule: no {full['schedule']!r}; known: {', '.join(SCHEDULES)}")
    return full


def build(cfg: Mapping[str, Any]) -> optax.GradientTransformation:
    """Clipping, the optimizer's direction, decoupled weight decay, multipliers by parameter name.

    Arrays of fewer than two dimensions (biases, norms, LayerScale, logit_scale) are not decayed.
    `l2` is decay inside of the gradient, before momentum, as PyTorch's SGD has its weight_decay: it
    pulls 1 / (1 - momentum) times as hard as `weight_decay`.
    `lr_multipliers`: [(regex over parameter names, factor)]; the first match counts.
    """
    cfg = settings(cfg)
    parts = [optax.clip_by_global_norm(cfg["clip_norm"])] if cfg["clip_norm"] else []
    if cfg["l2"]:
        parts.append(optax.add_decayed_weights(cfg["l2"], mask=_decayed))
    parts += {
        "adamw": lambda: [optax.scale_by_adam(b1=cfg["b1"], b2=cfg["b2"])],
        "lion": lambda: [optax.scale_by_lion(b1=cfg["b1"], b2=cfg["b2"])],
        "sgd": lambda: [optax.trace(decay=cfg["momentum"])],
    }[cfg["name"]]()
    if cfg["weight_decay"]:
        parts.append(optax.add_decayed_weights(cfg["weight_decay"], mask=_decayed))
    if cfg["lr_multipliers"]:
        parts.append(_multiply(cfg["lr_multipliers"]))
    return optax.chain(*parts)


def learning_rate(cfg: Mapping[str, Any], steps: int, step: int) -> np.float32:
    """The rate of a step: linear warm-up over `warmup_steps`, then cosine to 0, poly, or constant.

    "poly" falls from the peak to `end_rate` as (1 - progress)^power (DeepLab, arXiv 1606.00915).
    """
    cfg = settings(cfg)
    if "learning_rate" not in cfg:
        raise UserError("optim.learning_rate: missing; give the peak rate")
    peak, warmup = float(cfg["learning_rate"]), int(cfg["warmup_steps"])
    if step < warmup:
        return np.float32(peak * (step + 1) / (warmup + 1))
    if cfg["schedule"] == "constant":
        return np.float32(peak)
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    if cfg["schedule"] == "poly":
        end = float(cfg["end_rate"])
        return np.float32(end + (peak - end) * (1 - progress) ** cfg["power"])
    return np.float32(peak * 0.5 * (1 + np.cos(np.pi * progress)))


def _decayed(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def _multiply(rules: Any) -> optax.GradientTransformation:
    def factor(name: str) -> float:
        return next((float(f) for regex, f in rules if re.match(regex, name)), 1.0)

    def update(updates: Any, params: Any) -> Any:
        del params
        return tree.unflatten({n: u * factor(n) for n, u in tree.names(updates).items()})

    return optax.stateless(update)
