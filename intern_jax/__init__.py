"""INTERN in JAX: one vision model, trained in stages, adapted with few labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intern_jax.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Any

    from intern_jax.weights.model import Model

__all__ = ["__version__", "load"]


def load(
    path: str | os.PathLike[str] | None = None,
    backbone: str | Callable[..., Any] | None = None,
    families: Sequence[str] = (),
) -> Model:
    """Opens a model folder, or the small generalist that ships with the package.

    A folder holds no code. If its author wrote the network or the task family, give that code here:
    `backbone`: the Flax module, or the function or class that makes it of the settings in the folder; also by name,
    such as "my_module:Net".
    `families`: names of task families, such as ["my_module:FAMILY"].
    Raises `intern_jax.core.config.UserError` for a folder that is missing, damaged or not to be
    trusted. Nothing heavy is imported before the call.
    """
    from intern_jax.weights.folder import DEFAULT, load_model

    return load_model(DEFAULT if path is None else path, backbone, families)
