"""A command line names a start: a model folder, a network of the zoo, or nothing for the weights that ship."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.weights.folder import DEFAULT, NeedsFunction, load_model
from intern_jax.weights.model import Model


def start(
    init: str | os.PathLike[str] | None,
    seed: int = 0,
    backbone: str | Callable[..., Any] | None = None,
) -> Model:
    """The model to start from, without a head: who starts from it learns one of its own.

    `init`: a model folder, a zoo name (weights drawn by `seed`), or None for the weights that ship with the package.
    `backbone`: for a folder whose network is its author's own, its function or class, or "my_module:Net".
    """
    if init is not None and str(init) in zoo.VARIANTS:
        if backbone is not None:
            raise UserError(f"backbone: {init} is a network of the zoo; leave backbone out")
        return dataclasses.replace(Model.random({"name": str(init)}, seed), name=str(init))
    try:
        return load_model(DEFAULT if init is None else init, backbone, head=False)
    except NeedsFunction as error:
        raise UserError(
            f"{init}: its backbone is its author's own, {error.name!r}; adapt takes it by --backbone=MODULE:NET, "
            "benchmark by --backbone=MODULE:FUNCTION (in place of --init) of a function that returns "
            f"intern_jax.load({str(init)!r}, backbone=NET)"
        ) from None
