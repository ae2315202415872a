"""Dotted names that a config may use: their stable addresses, and where they stood in earlier versions.

An old name works, and one line says the new one. Checked configs, keys and records have the new names only.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# What a config may name of this package, by use. Whatever else is a public function may be named too, but can move.
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

# Modules that moved: what was named in the first as module:NAME is in the second.
MOVED: dict[str, str] = {
    "intern_jax.data.sources": "intern_jax.data.sources.folder",
    "intern_jax.data.transforms": "intern_jax.data.make.views",
    "intern_jax.data.dense_transforms": "intern_jax.data.make.dense",
    "intern_jax.data.array_record_source": "intern_jax.data.sources.array_record",
    "intern_jax.data.tfds_source": "intern_jax.data.sources.tfds",
    "intern_jax.adapt.backbone": "intern_jax.weights.model",
}
# Names that moved to a module of their own, or are called otherwise now.
RENAMED: dict[str, str] = {
    "intern_jax.data.transforms:dense": "intern_jax.data.make.dense:dense",
    "intern_jax.data.sources:ArrayRecordSource": "intern_jax.data.sources.array_record:ArrayRecordSource",
    "intern_jax.data.sources:TfdsSource": "intern_jax.data.sources.tfds:TfdsSource",
    "intern_jax.data.sources:Subset": "intern_jax.data.sources.subset:Subset",
    "intern_jax.data.sources:Replacing": "intern_jax.data.sources.replacing:Replacing",
    "intern_jax.adapt.backbone:Backbone": "intern_jax.weights.model:Model",
}


def current(name: str) -> str:
    """The address of a dotted name today; a name that did not move is returned as it is."""
    module, colon, attribute = name.partition(":")
    found = RENAMED.get(name) or (f"{MOVED[module]}:{attribute}" if module in MOVED else name)
    if colon and found != name:
        _told(name, found)
        return found
    return name


def all_current(settings: Any) -> Any:
    """Plain settings with every {"fn": name} in them at today's address."""
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
    """Say it once per name."""
    log.warning("%s is an old name; write %s", old, new)
