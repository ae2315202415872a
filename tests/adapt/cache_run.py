"""Caches features of embedded rows on a mesh of all devices: `python cache_run.py FOLDER OUT.npz` (test_cache.py)."""

import json
import sys

import jax
import numpy as np

from intern_jax.adapt.cache import cached
from intern_jax.benchmark import protocol
from intern_jax.core import mesh as mesh_lib
from intern_jax.data.embedded import load
from intern_jax.data.sources.subset import Subset
from intern_jax.models.backbone import LAYERS
from intern_jax.weights.model import Model
from intern_jax.weights.opening import start

TRANSFORM = {"fn": "intern_jax.data.make.dense:dense", "size": 32, "train": False}


def main(folder: str, out: str) -> None:
    """Features of 40 rooms, and the shipped weights' of 40 leaves, into caches below `folder` and into `out`."""
    source = Subset(load("rooms_depth", split="test"), range(40))
    backbone = Model.random({"name": "embedded_tiny"}, 0)
    settings = {"mesh": mesh_lib.make_mesh(), "kept": folder, "batch_size": 24}
    maps = cached(backbone, source, TRANSFORM, task="dense", outputs=LAYERS, **settings)
    pooled = cached(backbone, source, TRANSFORM, task="cls", outputs=("pooled",), **settings)
    leaves = load("clipart_leaf", split="train")
    drawn = protocol.subset(leaves.keys, leaves.labels, 0.1, 0)
    spec = {"fn": "intern_jax.data.make.views:classification", "size": 32, "train": False}
    few = Subset(leaves, drawn[:40])
    shipped = cached(start(None), few, spec, task="cls", outputs=("pooled",), **settings)
    np.savez(out, **maps, pooled=pooled["pooled"], shipped=shipped["pooled"])
    facts = {"devices": len(jax.devices()), "subset": protocol.subset_digest(leaves.keys, drawn)}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
