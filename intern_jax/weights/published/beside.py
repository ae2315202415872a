"""What a publisher says of a file beside its arrays: in its name, and in the JSON that timm and open_clip put on a hub.

The arrays do not tell how pictures are read, nor a CLIP's activation; such a JSON does.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from intern_jax.core import strict_json
from intern_jax.core.config import UserError
from intern_jax.weights.preprocess import INTERPOLATION, Preprocess
from intern_jax.weights.published.torch_names import Unfit

# A hub's names of a repository's weights. A JSON beside a file of another name may be of another network.
_WEIGHTS = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")
_TIMM, _OPEN_CLIP = "config.json", "open_clip_config.json"
_MAX_BYTES = 2**20
# timm's crop_mode and open_clip's resize_mode, as a resize of ours; a third way of each has none.
_RESIZE = {"center": "short", "shortest": "short", "squash": "squash"}


@dataclasses.dataclass(frozen=True)
class Told:
    """What is said of a file.

    file          the JSON's name; "" without one
    architecture  the library's name of the network; "" if it is not said
    pictures      fields of a Preprocess
    activation    of a CLIP's towers; None if it is not said
    """

    file: str = ""
    architecture: str = ""
    pictures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    activation: str | None = None


def told(source: str | os.PathLike[str]) -> Told:
    """What the name of a file and a JSON beside it say; Unfit for pictures that no Preprocess reads so."""
    path = pathlib.Path(source)
    named = "quick_gelu" if "quickgelu" in path.name.lower().replace("_", "") else None
    if path.stem not in _WEIGHTS:
        return Told(activation=named)
    found = _open_clip(_json(path.with_name(_OPEN_CLIP)))
    found = found or _timm(_json(path.with_name(_TIMM)))
    if found is None:
        return Told(activation=named)
    try:
        Preprocess(**({"canvas": 224} | dict(found.pictures)))
    except UserError as error:
        raise Unfit(f"{found.file} beside it: {error}") from None
    return found


def _timm(content: Mapping[str, Any]) -> Told | None:
    config, architecture = content.get("pretrained_cfg"), content.get("architecture")
    if not isinstance(config, dict) or not isinstance(architecture, str):
        return None
    pictures = _pictures(config, config.get("crop_mode", "center"))
    size = config.get("input_size")
    if isinstance(size, list) and len(size) == 3 and size[1] == size[2]:
        pictures["canvas"] = size[1]
    if "crop_pct" in config:
        pictures["crop"] = config["crop_pct"]
    clip = "quick_gelu" if "quickgelu" in architecture else None
    return Told(_TIMM, architecture, pictures, clip)


def _open_clip(content: Mapping[str, Any]) -> Told | None:
    model, config = content.get("model_cfg"), content.get("preprocess_cfg")
    if not isinstance(model, dict) or not isinstance(config, dict):
        return None
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    pictures = _pictures(config, config.get("resize_mode", "shortest"))
    return Told(_OPEN_CLIP, "", pictures, activation)


def _pictures(config: Mapping[str, Any], mode: Any) -> dict[str, Any]:
    if mode not in _RESIZE or config.get("interpolation", "bicubic") not in INTERPOLATION:
        raise Unfit(
            f"its publisher reads pictures by {mode!r:.40}, {config.get('interpolation')!r:.40}, which is not "
            "supported; give --resize and --interpolation, and remove the JSON beside it"
        )
    kept = {name: config[name] for name in ("mean", "std", "interpolation") if name in config}
    return {"resize": _RESIZE[mode], **kept}


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    """The object in a small JSON file; {} for anything else."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        content = strict_json.parse(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
