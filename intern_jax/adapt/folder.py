"""A user's own task: a folder of class folders in, a model folder and its validation accuracy out."""

import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from intern_jax import families
from intern_jax.adapt import fit
from intern_jax.adapt.backbone import start
from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import fit_probe
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.classification import wilson_interval
from intern_jax.weights import folder as folder_lib

log = logging.getLogger(__name__)


def adapt_folder(
    data: str | os.PathLike,
    out: str | os.PathLike,
    init: str | os.PathLike | None = None,
    method: str = "probe",
    canvas: int | None = None,
    validation: float = 0.2,
    steps: int = 400,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    l2: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0),
    flip: bool = True,
    seed: int = 0,
    backbone: str | Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Learn the classes of DIR/<class>/*.jpg from a model folder's backbone, and save a model folder.

    `init`: a model folder, a zoo name (random weights), or None for the weights that ship with the package.
    `method`: "probe" (frozen backbone, linear head by L-BFGS) or "finetune" (all weights, `steps` of
    `batch_size` at `learning_rate`). A `validation` share of each class is held out and scored with a 95%
    Wilson interval; the saved probe is fitted on the training part only, so the score is that model's.
    `backbone`: "my_module:Net", or that function, where init's network is its author's own.
    """
    if method not in ("probe", "finetune"):
        raise UserError(f"method: no '{method}'; use probe or finetune")
    if not 0 < validation < 1:
        raise UserError(f"validation: {validation} is outside (0, 1); 0.2 holds out a fifth")
    source = ImageFolder(data)
    backbone, default_canvas = start(init, seed, backbone)
    canvas = canvas or default_canvas
    train, held = _split(source, validation, seed)
    log.info(
        "%s: %d classes, %d to train, %d held out", data, len(source.classes), len(train), len(held)
    )
    transform = families.find("classification").view(canvas, train=False, flip=flip)
    if method == "probe":
        parts = Subset(source, train), Subset(source, held)
        logits, variables = _probe(backbone, *parts, transform, l2, seed)
    else:
        cfg = fit.settings(steps, min(batch_size, len(train)), learning_rate)
        model = fit.train_model(
            backbone.spec,
            Subset(source, train),
            family="classification",
            size=canvas,
            flip=flip,
            cfg=cfg,
            seed=seed,
            mesh=mesh_lib.make_mesh(data=1),
            init=backbone,
        )
        arrays = eval_arrays(Subset(source, held), config_lib.bind(transform))
        logits = model.predict(arrays["image"])
        variables = {"params": model.params, **model.extra}
    right = int((logits.argmax(-1) == source.labels[held]).sum())
    low, high = wilson_interval(right, len(held))
    summary = {
        "accuracy": right / len(held),
        "interval_low": low,
        "interval_high": high,
        "n_train": len(train),
        "n_validation": len(held),
        "method": method,
        "start": backbone.name,
    }
    folder_lib.save_model(
        out,
        task="classification",
        backbone=backbone.spec,
        variables=variables,
        canvas=canvas,
        mean=backbone.mean,
        std=backbone.std,
        classes=source.classes,
        provenance=summary,
        network=backbone.module,
    )
    return {**summary, "model": str(out)}


def _split(source: ImageFolder, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of each class, at least one image, and leave at least one to train on."""
    rng = np.random.default_rng(seed)
    train, held = [], []
    for label, name in enumerate(source.classes):
        rows = rng.permutation(np.flatnonzero(source.labels == label))
        if len(rows) < 2:
            raise UserError(
                f"{name}: one image only; a class needs two, one of them to be held out"
            )
        count = min(max(round(validation * len(rows)), 1), len(rows) - 1)
        held.append(rows[:count])
        train.append(rows[count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held))


def _probe(backbone, train, held, transform, l2, seed):
    mesh = mesh_lib.make_mesh(data=1)
    known, asked = (
        cached(backbone, part, transform, task="cls", outputs=("pooled",), mesh=mesh)
        for part in (train, held)
    )
    probe = fit_probe(known["pooled"], known["label"], len(train.classes), l2_grid=l2, seed=seed)
    head = folder_lib.linear_head(probe.kernel, probe.bias, probe.mean, probe.scale)
    variables = {
        collection: {"backbone": values} | ({"head": head} if collection == "params" else {})
        for collection, values in backbone.variables.items()
    }
    return probe.logits(asked["pooled"]), variables
