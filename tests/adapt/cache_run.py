"""Caches features of a tiny source on a mesh of all devices: `python cache_run.py FOLDER OUT.npz` (test_cache.py)."""

import json
import sys

import jax
import numpy as np

from intern_jax.adapt.backbone import LAYERS, Backbone
from intern_jax.adapt.cache import cached
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.embedded import load
from intern_jax.data.sources import Subset

TRANSFORM = {"fn": "intern_jax.data.transforms:dense", "size": 32, "train": False}


def main(folder: str, out: str) -> None:
    """Dense maps and pooled features of 40 rooms, into caches below `folder` and into `out`."""
    source = Subset(load("rooms_depth", split="test"), range(40))
    backbone = Backbone.random({"name": "embedded_tiny"}, 0)
    settings = {"mesh": mesh_lib.make_mesh(), "folder": folder, "batch_size": 24}
    maps = cached(backbone, source, TRANSFORM, task="dense", outputs=LAYERS, **settings)
    pooled = cached(backbone, source, TRANSFORM, task="cls", outputs=("pooled",), **settings)
    np.savez(out, **maps, pooled=pooled["pooled"])
    print(json.dumps({"devices": len(jax.devices())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
