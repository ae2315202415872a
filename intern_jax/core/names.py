"""The dotted names that a config may use: their stable addresses, and their addresses in earlier versions.

An old name works, and one line says the new one. Checked configs, keys and records hold the new names only.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# The names in this package that a config may use, by kind. Other public functions may be named too, but can move.
PUBLIC: dict[str, tuple[str, ...]] = {
    "stages": (
        "intern_jax.stages.amateur:Amateur",
        "intern_jax.stages.expert:Expert",
        "intern_jax.stages.generalist:Generalist",
    ),
    "evaluators": ("intern_jax.stages.held_out:HeldOut",),
    "losses": (
        "intern_jax.losses.classification:cross_entropy",
        "intern_jax.losses.segmentation:pixel_cross_entropy",
        "intern_jax.losses.depth:l1_log",
        "intern_jax.losses.depth:silog",
        "intern_jax.losses.contrastive:clip_pairs",
        "intern_jax.losses.contrastive:nearest_neighbour_pairs",
        "intern_jax.losses.self_supervised:simsiam",
    ),
    "sources": (
        "intern_jax.data.embedded:load",
        "intern_jax.data.gvb:load",
        "intern_jax.data.sources.folder:ImageFolder",
        "intern_jax.data.sources.array_record:ArrayRecordSource",
        "intern_jax.data.sources.tfds:TfdsSource",
    ),
    "transforms": (
        "intern_jax.data.make.views:classification",
        "intern_jax.data.make.views:eval_classification",
        "intern_jax.data.make.views:centre_crop",
        "intern_jax.data.make.views:pair_views",
        "intern_jax.data.make.dense:dense",
        "intern_jax.data.make.dense:crop",
    ),
}

# Modules that moved: a name in the first module is now in the second.
MOVED: dict[str, str] = {
    "intern_jax.data.sources": "intern_jax.data.sources.folder",
    "intern_jax.data.transforms": "intern_jax.data.make.views",
    "intern_jax.data.dense_transforms": "intern_jax.data.make.dense",
    "intern_jax.data.array_record_source": "intern_jax.data.sources.array_record",
    "intern_jax.data.tfds_source": "intern_jax.data.sources.tfds",
    "intern_jax.adapt.backbone": "intern_jax.weights.model",
}
# Single names that moved to another module, or have another name now.
RENAMED: dict[str, str] = {
    "intern_jax.data.transforms:dense": "intern_jax.data.make.dense:dense",
    "intern_jax.data.sources:ArrayRecordSource": "intern_jax.data.sources.array_record:ArrayRecordSource",
    "intern_jax.data.sources:TfdsSource": "intern_jax.data.sources.tfds:TfdsSource",
    "intern_jax.data.sources:Subset": "intern_jax.data.sources.subset:Subset",
    "intern_jax.data.sources:Replacing": "intern_jax.data.sources.replacing:Replacing",
    "intern_jax.adapt.backbone:Backbone": "intern_jax.weights.model:Model",
}


def current(name: str) -> str:
    """The present address of a dotted name; a name that did not move is returned unchanged."""
    module, colon, attribute = name.partition(":")
    found = RENAMED.get(name) or (f"{MOVED[module]}:{attribute}" if module in MOVED else name)
    if colon and found != name:
        _told(name, found)
        return found
    return name


def all_current(settings: Any) -> Any:
    """Plain settings in which every {"fn": name} has its present address."""
    if isinstance(settings, Mapping):
        return {
            key: current(value) if key == "fn" and isinstance(value, str) else all_current(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [all_current(value) for value in settings]
    return settings


@functools.cache
def _told(old: str, new: str) -> None:
    """Log the new name, once per old name."""
    log.warning("%s is an old name; write %s", old, new)
