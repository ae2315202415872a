"""Trains a network of scanned blocks on several meshes of 8 forced host devices; prints what it saw as JSON.

Started by test_scan_mesh.py: the number of devices is fixed before jax starts.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from mesh_run import Stream, Zoo

from intern_jax.core import mesh as mesh_lib
from intern_jax.models.metanet import MetaNet
from intern_jax.models.vit import ViT
from intern_jax.topology import hlo
from intern_jax.train import loop, settings
from intern_jax.train.programs import Programs

MESHES = ((1, 1, 1), (1, 8, 1), (2, 2, 2))
OPTIM = {"learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
TABLE = {
    "operators": ("mbconv", "sa"),
    "repeats": (3, 3),
    "channels": (16, 16),
    "expansions": (2, 2),
    "strides": (1, 1),
    "outputs": (0, 1),
    "stem": 16,
    "head_dim": 8,
    "features": 16,
}


# Runs of three equal blocks with 16 channels and 2 heads of 8 in both.
VIT = {"width": 16, "depth": 12, "heads": 2, "patch": 4, "image_size": 16}
NETWORKS = {"metanet": (MetaNet, TABLE), "vit": (ViT, VIT)}


class Blocks(Zoo):
    """The whole network's parameters are gathered by its layers."""

    gather_late = ".*"

    def __init__(self, network: str, **changes):
        make, table = NETWORKS[network]
        self.model = make(**table | changes)


def losses(stage, mesh) -> list[float]:
    cfg = {"steps": 3, "log_every": 1, "optim": OPTIM}
    return [row["loss"] for row in loop.fit(stage, Stream(), cfg, mesh).history]


def program(stage, mesh) -> hlo.Program:
    """The step's compiled program on a mesh."""
    cfg = settings.Train().model_dump() | {"optim": OPTIM}
    batch = Stream().batch_at(0)
    programs = Programs.build(stage, cfg, mesh, batch)
    arguments = (programs.abstract, {}, mesh_lib.put_batch(mesh, batch))
    step = programs.step.lower(*arguments, jax.random.key(0), {"main": jnp.float32(0.1)})
    return hlo.read(step.compile().as_text())


def gathers(found: hlo.Program) -> dict[str, list]:
    """Shapes of what is gathered in loops and outside, and of everything that the program ever holds."""
    bodies = {
        name
        for computation in found.computations.values()
        for loop_ in computation.instructions.values()
        if loop_.opcode == "while"
        for name in [loop_.rest.split("body=%")[1].split(",")[0]]
    }
    seen = {"inside": [], "outside": [], "all": []}
    for name, computation in found.computations.items():
        for instruction in computation.instructions.values():
            seen["all"] += [shape.dims for shape in instruction.shapes]
            if instruction.opcode == "all-gather":
                seen["inside" if name in bodies else "outside"].append(instruction.shape.dims)
    return {kind: sorted(set(shapes)) for kind, shapes in seen.items()}


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    meshes = {
        "x".join(map(str, shape)): mesh_lib.make_mesh(
            *shape, devices=jax.devices()[: np.prod(shape)]
        )
        for shape in MESHES
    }
    network, remat = sys.argv[1:]
    scanned = Blocks(network, scan=True, remat=remat)
    seen = {"loss": {"loop": losses(Blocks(network), meshes["1x1x1"])}}
    seen["loss"] |= {name: losses(scanned, mesh) for name, mesh in meshes.items()}
    seen["gathers"] = gathers(program(scanned, meshes["1x8x1"]))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
