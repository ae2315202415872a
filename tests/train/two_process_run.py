"""One of several processes, or all of them in one, that train small networks; started by test_two_processes.py.

    two_process_run.py meshes OUT NAME ...   trains on the named meshes of 4 devices
    two_process_run.py long OUT WORKDIR [FAULT PROCESS AT ...]
                                             trains slowly, with checkpoints; with faults of tools/chaos/faults.py in
                                             one process at its AT-th save or reading

Process 0 writes what it saw to OUT as JSON. The environment says how many processes and devices there are.
"""

import json
import pathlib
import sys
import time

sys.path[:0] = [
    str(pathlib.Path(__file__).parent),
    str(pathlib.Path(__file__).resolve().parents[2]),
]

from intern_jax.processes import exits  # noqa: E402

# Sizes of data, fsdp and tensor, and the order of the devices; of two processes 0 and 1 are the first's.
# The orders with 0, 2 in them are as on a TPU slice, where a mesh follows the torus and not the hosts.
# Only placed, not trained: on CPU the exchange of rows can meet the collectives of the step before.
ROWS_APART = "data, rows apart"
MESHES = {
    "data": ((4, 1, 1), (0, 1, 2, 3)),
    ROWS_APART: ((4, 1, 1), (0, 2, 1, 3)),
    "fsdp": ((1, 4, 1), (0, 1, 2, 3)),
    "tensor across": ((1, 1, 4), (0, 1, 2, 3)),
    "tensor within": ((2, 1, 2), (0, 1, 2, 3)),
    "tensor across, all rows": ((1, 2, 2), (0, 2, 1, 3)),
}


def main() -> int:
    from absl import flags

    from intern_jax.processes import hosts
    from tools.chaos import faults

    flags.FLAGS.mark_as_parsed()
    hosts.initialize()
    what, out, *rest = sys.argv[1:]
    try:
        with exits.stoppable(), hosts.naming_losses():
            if what == "meshes":
                seen = on_meshes(rest)
            else:
                faults.put(rest[1:])
                seen = train_long(rest[0])
    except hosts.PeerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_PEER_LOST
    except hosts.MachineFault as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_STOPPED
    except hosts.Stopped as stop:
        print(stop, file=sys.stderr)
        return exits.EXIT_STOPPED
    if hosts.is_main():
        pathlib.Path(out).write_text(json.dumps(seen))
    return 0


def on_meshes(names: list[str]) -> dict:
    """What training on each mesh gave, and the straight run that `train_long` is to equal."""
    import jax
    import numpy as np

    from intern_jax.core import mesh as mesh_lib

    seen = {"long": train_long(None)}
    for name in names:
        shape, order = MESHES[name]
        mesh = mesh_lib.make_mesh(*shape)
        if order != tuple(sorted(order)):
            devices = np.array([jax.devices()[i] for i in order]).reshape(shape)
            mesh = jax.sharding.Mesh(devices, mesh_lib.AXES)
        seen[name] = train(mesh, 0 if name == ROWS_APART else 4)
    return seen


def train(mesh, steps: int) -> dict:
    """Losses, one number of each row of a global batch, and in how many blocks the rows are made."""
    from intern_jax.core import mesh as mesh_lib
    from intern_jax.data.batches.stream import Stream
    from intern_jax.processes import hosts
    from intern_jax.train.loop import fit

    rows = mesh_lib.batch_rows(mesh)
    optim = {"learning_rate": 1e-2, "weight_decay": 0.05, "clip_norm": 1.0}
    cfg = {"steps": steps, "log_every": 1, "optim": optim}
    with Stream({"task": Batches()}, rows=rows, threads=1, prefetch=1) as stream:
        batch = mesh_lib.put_batch(mesh, stream.batch_at(3))
        done = fit(stage(), stream, cfg, mesh)
    return {
        "loss": [row["loss"] for row in done.history],
        "rows": hosts.to_host(batch)["task"]["image"][:, 0, 0, 0].tolist(),
        "blocks": rows[1],
    }


class Batches:
    """Ready batches of mesh_run.py's pictures."""

    def __getitem__(self, index):
        from mesh_run import Stream

        return Stream().batch_at(index)["task"]


def stage():
    """A classifier that is quickly compiled: both of its layers have fsdp and tensor axes, its norm sees all rows."""
    import flax.linen as nn
    from mesh_run import Classify

    from intern_jax.models.layers.basic import BatchNorm, Dense

    class Network(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            x = Dense(64)(images.reshape(len(images), -1))
            x = nn.relu(BatchNorm()(x, train))
            return Dense(8, axes=("mlp", "embed"))(x)

    class Small(Classify):
        def init(self, key, batch):
            return Network().init(key, batch["task"]["image"], train=True)

        def logits(self, variables, image, _key):
            return Network().apply(variables, image, train=True, mutable=["batch_stats"])

    return Small()


def train_long(workdir: str | None) -> dict:
    """Losses and digests of the last state of a run that goes on from the checkpoints in `workdir`."""
    import toy

    from intern_jax.core import digests
    from intern_jax.core import mesh as mesh_lib
    from intern_jax.train.loop import fit

    mesh = mesh_lib.make_mesh()
    block, blocks = mesh_lib.batch_rows(mesh)

    class Slow(toy.Stream):
        def batch_at(self, step):
            time.sleep(0.1 if workdir else 0)
            rows = super().batch_at(step)["task"]
            count = len(rows["y"]) // blocks
            mine = slice(block * count, (block + 1) * count)
            return {"task": {field: value[mine] for field, value in rows.items()}}

    cfg = toy.settings(steps=30, ema_decay=0.9, checkpoint_every=2)
    done = fit(toy.Linear(noise=0.1), Slow(), cfg, mesh, workdir)
    return {
        "loss": [row["loss"] for row in done.history],
        "state": digests.describe(done.state),
    }


if __name__ == "__main__":
    sys.exit(exits.supervised(main))
