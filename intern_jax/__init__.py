"""INTERN in JAX: one vision model, trained in stages, adapted with few labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intern_jax.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from intern_jax.weights.folder import Model

__all__ = ["__version__", "load"]


def load(
    path: str | os.PathLike[str] | None = None, backbone: Callable[..., Any] | None = None
) -> Model:
    """Opens a model folder, or the small generalist that ships with the package.

    `backbone`: for a folder whose network is its author's own, the function or class that makes it of the
    settings that the folder holds, or the Flax module itself. A folder names no code that would be run.
    Raises `intern_jax.core.config.UserError` for a folder that is missing, damaged or not to be
    trusted. Nothing heavy is imported before the call.
    """
    from intern_jax.weights.folder import DEFAULT, load_model

    return load_model(DEFAULT if path is None else path, backbone)
