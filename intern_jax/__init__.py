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

    A folder names no code that would be run; whoever opens it gives what it needs of its author's own:
    `backbone`: the function or class that makes the network of the settings that the folder holds, its dotted
    name ("my_module:Net"), or the Flax module itself;
    `families`: dotted names of task families ("my_module:FAMILY").
    Raises `intern_jax.core.config.UserError` for a folder that is missing, damaged or not to be
    trusted. Nothing heavy is imported before the call.
    """
    from intern_jax.weights.folder import DEFAULT, load_model

    return load_model(DEFAULT if path is None else path, backbone, families)
