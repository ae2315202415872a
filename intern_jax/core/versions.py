"""The versions of the packages that results depend on; they are stored beside every result."""

import platform
from importlib import metadata

from intern_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")


def versions() -> dict[str, str]:
    """{package: version}, with this package and Python among them."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"intern_jax": __version__, "python": platform.python_version(), **found}
