"""What each shipped config comes to, as files that show a changed default in review.

    python tests/configs/golden.py      writes golden/*.json anew

golden/NAME.json: every field of the resolved config, by its path. Of the quickstart's stages, keys.json holds the key
and what it covers beside the settings (another key: a finished stage is trained again), and arrays.json the shape of
every array that a stage leaves to later ones.
"""

import json
import os
import pathlib
import sys
from typing import Any

GOLDEN = pathlib.Path(__file__).with_name("golden")
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
QUICKSTART = CONFIGS / "quickstart.py"


def everything() -> dict[str, dict[str, Any]]:
    """The content of every file in golden/, by its name."""
    found = {path.stem: fields(resolved(path)) for path in sorted(CONFIGS.glob("*.py"))}
    return found | {"keys": keys(QUICKSTART), "arrays": arrays(QUICKSTART)}


def resolved(path: pathlib.Path) -> dict[str, Any]:
    """A config as its verb takes it: checked, with every default."""
    from intern_jax import pipeline
    from intern_jax.benchmark.settings import Gvb
    from intern_jax.core import schema
    from intern_jax.core.config import load_config, plain

    config = plain(load_config(path))
    if "steps" in config:  # of `data run`: each step has its own defaults
        return config
    return pipeline.check(config) if "stages" in config else schema.checked(Gvb, config, "config")


def fields(value: Any, name: str = "") -> dict[str, Any]:
    """{path of a field: its value}, in the config's order."""
    if isinstance(value, dict) and value:
        inner = [(f"{name}.{key}" if name else key, item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {name: value}
    return {path: leaf for key, item in inner for path, leaf in fields(item, key).items()}


def keys(path: pathlib.Path) -> dict[str, Any]:
    """{stage.field: value} of what makes the stages' keys, but the settings that stand in the config's own file."""
    from intern_jax.core import layout
    from intern_jax.pipeline import chain
    from intern_jax.pipeline import keys as keys_lib

    settings = resolved(path)
    links = chain.links(settings, keys_lib.fingerprints(settings), 0, layout.Layout.of("."))
    found = {}
    for stage, link in links.items():
        beside = {name: value for name, value in link.content.items() if name != "settings"}
        found |= fields({"key": link.product.key, **beside}, stage)
    return found


def arrays(path: pathlib.Path) -> dict[str, str]:
    """{stage/array: dtype[shape]} of what the stages leave; each is traced as before a run, and none is trained."""
    from intern_jax.core import tree
    from intern_jax.core.mesh import make_mesh
    from intern_jax.pipeline import preflight

    settings, known = resolved(path), {}
    for stage in settings["stages"]:
        preflight.check(settings, stage, make_mesh(data=1), known)
    return {
        f"{stage}/{name}": f"{array.dtype}{list(array.shape)}"
        for stage, product in known.items()
        for name, array in tree.names(product).items()
    }


def text(content: dict[str, Any]) -> str:
    """The content of a file: a field per line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write every file anew, and delete those of configs that are gone."""
    made = everything()
    for path in GOLDEN.glob("*.json"):
        if path.stem not in made:
            path.unlink()
    for name, content in made.items():
        (GOLDEN / f"{name}.json").write_text(text(content), "utf-8")


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(CONFIGS.parent))
    main()
