"""Trains a contrastive toy by GradCache on several meshes of 8 forced host devices; prints what it saw as JSON.

Its optimizer has groups, its loss reads an average, and an evaluation runs on the whole mesh. Started by
test_contract_mesh.py: the number of devices is fixed before jax starts.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(ROOT)]

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from mesh_run import MESHES, Stream  # noqa: E402

from intern_jax.core import mesh as mesh_lib  # noqa: E402
from intern_jax.core.averages import mean, whole  # noqa: E402
from intern_jax.losses.contrastive import info_nce, unit  # noqa: E402
from intern_jax.models.layers.basic import Conv, Dense  # noqa: E402
from intern_jax.train.evaluation import Evaluation  # noqa: E402
from intern_jax.train.loop import fit  # noqa: E402
from intern_jax.train.stage import Stage  # noqa: E402

OPTIM = {
    "learning_rate": 1e-2,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "groups": {"top": {"match": "top/", "name": "sgd", "learning_rate": 0.1}},
}


class Tower(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.relu(Conv(32, 3, 2, use_bias=True, name="first")(images))
        x = nn.relu(Conv(64, 3, 2, use_bias=True, name="second")(x)).mean((1, 2))
        return Dense(32, axes=("embed", "mlp"), name="top")(x)


class Views(Stage):
    """A picture against its mirror image, and drawn to where an average of its first layer would see it."""

    name, average, average_decay = "views", "(first|second|top)/", 0.8

    def init(self, key, batch):
        return Tower().init(key, batch["task"]["image"])

    def embed(self, context):
        def see(params, x):
            return unit(Tower().apply({"params": params}, x))

        images = context.batch["task"]["image"]
        one, other = see(context.params, images), see(context.params, images[:, :, ::-1])
        followed = jax.lax.stop_gradient(see(context.average, images))
        apart = mean(((one - followed) ** 2).sum(-1))
        return {"one": one, "other": other}, {"apart": apart}, (context.extra, {})

    def couple(self, _context, embeddings):
        return {"contrast": whole(info_nce(embeddings["one"], embeddings["other"], 10.0))}, ({}, {})


def main() -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    norm = Evaluation(
        "norm", lambda v: {"top": jax.numpy.abs(v["params"]["top"]["kernel"]).sum()}, 2, "all"
    )
    seen = {}
    for parts in (1, 2):
        for shape in MESHES:
            cfg = {"steps": 4, "log_every": 1, "accumulate": parts, "optim": OPTIM}
            mesh = mesh_lib.make_mesh(*shape, devices=jax.devices()[: np.prod(shape)])
            done = fit(Views(), Stream(), cfg, mesh, evaluations=[norm])
            names = ("loss", "contrast", "apart", "norm/top")
            name = f"{'x'.join(map(str, shape))}, {parts}"
            seen[name] = [[row.get(name) for name in names] for row in done.history]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
