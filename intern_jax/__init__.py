"""INTERN in JAX: one vision model, trained in stages, adapted with few labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intern_jax.version import __version__

if TYPE_CHECKING:
    import os
    import pathlib
    from collections.abc import Callable, Sequence
    from typing import Any

    from intern_jax.core.config import UserError
    from intern_jax.weights.model import Model

__all__ = ["UserError", "__version__", "load", "pictures"]


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
    Raises `UserError` for a folder that is missing, damaged or not to be trusted. Nothing heavy is imported before
    the call.
    """
    from intern_jax.weights.folder import DEFAULT, load_model

    return load_model(DEFAULT if path is None else path, backbone, families)


def pictures(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The pictures in a folder and in the folders in it, sorted by path.

    They are those that a model reads where it is given the folder, in the order of its answers.
    """
    from intern_jax.data.read.given import below

    return below(folder)


def __getattr__(name: str) -> Any:
    # Only who catches the error needs its module, which takes a while to import.
    if name == "UserError":
        from intern_jax.core.config import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
