"""Optimizers from plain settings. They do not hold the learning rate: the train step multiplies by it.

One compiled step therefore serves all schedules and lengths, which the many short fits of adaptation need.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.train import settings
from intern_jax.train.settings import MAIN

FREE = (
    "learning_rate",
    "warmup_steps",
    "schedule",
    "power",
    "end_rate",
    "drops",
)  # a compiled step serves all values of these


def groups(cfg: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{group: full settings} of MAIN and of the config's `groups`, which inherit what they do not set from MAIN.

    `groups` is {name: {"match": regex over parameter names, **settings of its own}}.
    """
    main = settings.optim(cfg)
    return {MAIN: main, **main.pop("groups")}


def group_of(cfg: Mapping[str, Any]) -> Callable[[str], str]:
    """A function from a parameter's name to its group: the one whose `match` matches from the start, else MAIN."""
    rules = [
        (re.compile(own["match"]), name) for name, own in settings.optim(cfg)["groups"].items()
    ]
    return lambda parameter: next((name for rule, name in rules if rule.match(parameter)), MAIN)


def check_names(cfg: Mapping[str, Any], params: Any) -> None:
    """Refuse what matches no parameter or two groups, and `layer_decay` without blocks.

    The groups of a config have no order. The multipliers of a group have one: the first match counts.
    """
    names = list(tree.names(params))
    if _layer_decay(cfg) != 1 and not any(tree.layers_above(names).values()):
        raise UserError(
            "optim.layer_decay: no trainable parameter is of a block such as blocks_0 or layer1_0; "
            f"they are named such as {names[0]}; leave it out"
        )
    taken: dict[str, str] = {}
    for group, own in settings.optim(cfg)["groups"].items():
        mine = [name for name in names if re.match(own["match"], name)]
        where = f"optim.groups.{group}.match: {own['match']!r}"
        if not mine:
            raise UserError(
                f"{where} matches no trainable parameter; they are named such as {names[0]}"
            )
        for name in mine:
            if taken.setdefault(name, group) != group:
                raise UserError(
                    f"{where} matches {name}, and so does group '{taken[name]}'; make them differ"
                )
    _check_multipliers(cfg, names)


def _check_multipliers(cfg: Mapping[str, Any], names: list[str]) -> None:
    """Refuse a multiplier that no parameter gets: in its own group, or for inherited ones in all of them."""
    of, used = group_of(cfg), set()
    every = {group: own["lr_multipliers"] for group, own in groups(cfg).items()}
    for name in names:
        rules = (regex for regex, _ in every[of(name)] if re.match(regex, name))
        used.add(next(rules, None))
    for group, rules in every.items():
        where = "optim" if group == MAIN else f"optim.groups.{group}"
        for position, (regex, _) in enumerate(rules):
            if regex in used:
                continue
            said = "matches no trainable parameter"
            if any(re.match(regex, name) for name in names):
                said = "matches only parameters of other groups, or that an earlier rule matches"
            raise UserError(
                f"{where}.lr_multipliers[{position}]: {regex!r} {said}; they are named such as {names[0]}"
            )


def build(cfg: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optax transformation: one chain for all parameters, or one per group (`_chain`).

    `layer_decay` multiplies the rate of a parameter by its power to the number of layers above it (tree.layers_above).
    That is BEiT's (arXiv 2106.08254) and timm's param_groups_layer_decay.
    """
    chain, decay = _of_groups(cfg), _layer_decay(cfg)
    return chain if decay == 1 else optax.chain(chain, _by_layer(decay))


def _of_groups(cfg: Mapping[str, Any]) -> optax.GradientTransformation:
    chains = {name: _chain(own) for name, own in groups(cfg).items()}
    if len(chains) == 1:
        return chains[MAIN]
    of = group_of(cfg)

    def labels(params: Any) -> Any:
        return tree.unflatten({name: of(name) for name in tree.names(params)})

    return optax.partition(chains, labels)


def _chain(cfg: Mapping[str, Any]) -> optax.GradientTransformation:
    """Clipping, the optimizer, decoupled weight decay, and multipliers by parameter name.

    Weight decay leaves out arrays with fewer than two dimensions (biases, norms, LayerScale, logit_scale, class
    tokens) and position embeddings of pictures, as timm's does. `l2` adds the decay to the gradient before momentum,
    like weight_decay of PyTorch's SGD; its effect is 1 / (1 - momentum) times that of `weight_decay`. `lr_multipliers`
    is [(regex over parameter names, factor)]; the first match counts.
    """
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


def learning_rates(
    of: Mapping[str, Mapping[str, Any]], steps: int, step: int
) -> dict[str, np.float32]:
    """The learning rate of each group at a step; `of` is the result of `groups`."""
    return {name: _rate(own, steps, step) for name, own in of.items()}


def compiled(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a compiled step holds, by field: all but those of the schedule (FREE)."""
    own = {name: {f: v for f, v in g.items() if f not in FREE} for name, g in groups(cfg).items()}
    main = own.pop(MAIN)
    matches = {name: g["match"] for name, g in settings.optim(cfg)["groups"].items()}
    return main | {"groups": own, "match": matches}


def learning_rate(cfg: Mapping[str, Any], steps: int, step: int) -> np.float32:
    """The learning rate of a step: linear warm-up over `warmup_steps`, then cosine, poly, steps, or constant.

    "cosine" falls from the peak to `end_rate` as half a cosine (SGDR, arXiv 1608.03983), "poly" as
    (1 - progress)^power (DeepLab, arXiv 1606.00915). "steps" is a tenth of what it was from each of `drops` on, shares
    of all steps.
    """
    return _rate(settings.optim(cfg), steps, step)


def _rate(cfg: Mapping[str, Any], steps: int, step: int) -> np.float32:
    if cfg["learning_rate"] is None:
        raise UserError("optim.learning_rate: missing; give the peak rate")
    peak, warmup = float(cfg["learning_rate"]), int(cfg["warmup_steps"])
    if step < warmup:
        return np.float32(peak * (step + 1) / (warmup + 1))
    if cfg["schedule"] == "constant":
        return np.float32(peak)
    if cfg["schedule"] == "steps":
        return np.float32(
            peak * 0.1 ** sum(step >= round(at * steps) for at in cfg.get("drops", ()))
        )
    progress, end = min((step - warmup) / max(steps - warmup, 1), 1.0), float(cfg["end_rate"])
    if cfg["schedule"] == "poly":
        return np.float32(end + (peak - end) * (1 - progress) ** cfg["power"])
    return np.float32(end + (peak - end) * 0.5 * (1 + np.cos(np.pi * progress)))


def _decayed(params: Any) -> Any:
    """Which parameters decay: matrices and kernels, but no position embeddings of pictures.

    Those of a text tower decay, as in CLIP's and DeCLIP's recipes.
    """

    def one(path: Any, leaf: Any) -> bool:
        name = tree.name(path)
        place = name.endswith("position_embedding") and not name.startswith("text/")
        return leaf.ndim >= 2 and not place

    return jax.tree_util.tree_map_with_path(one, params)


def _multiply(rules: Any) -> optax.GradientTransformation:
    def factor(name: str) -> float:
        return next((float(f) for regex, f in rules if re.match(regex, name)), 1.0)

    return _times(lambda names: {name: factor(name) for name in names})


def _layer_decay(cfg: Mapping[str, Any]) -> float:
    return settings.optim(cfg).get("layer_decay", 1.0)


def _by_layer(decay: float) -> optax.GradientTransformation:
    return _times(lambda names: {n: decay**k for n, k in tree.layers_above(names).items()})


def _times(factors: Callable[[list[str]], Mapping[str, float]]) -> optax.GradientTransformation:
    """The updates times the factors that their names have."""

    def update(updates: Any, params: Any) -> Any:
        del params
        paths = jax.tree_util.tree_leaves_with_path(updates)
        of = factors([tree.name(path) for path, _ in paths])
        return jax.tree_util.tree_map_with_path(lambda path, u: u * of[tree.name(path)], updates)

    return optax.stateless(update)
