"""A user's own task: a folder of class folders in, a model folder and its validation accuracy out."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from intern_jax.adapt import fit
from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import fit_probe
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.classification import wilson_interval
from intern_jax.weights.folder import save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.opening import start
from intern_jax.weights.preprocess import Preprocess

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
    `canvas`: side in pixels of the pictures, if not the start's. `l2`: penalties that the probe chooses from.
    `backbone`: "my_module:Net", or that function, where init's network is its author's own.
    """
    if method not in ("probe", "finetune"):
        raise UserError(f"method: no '{method}'; use probe or finetune")
    if not 0 < validation < 1:
        raise UserError(f"validation: {validation} is outside (0, 1); 0.2 holds out a fifth")
    source = ImageFolder(data)
    model = start(init, seed, backbone)
    pictures = dataclasses.replace(model.preprocess, canvas=canvas or model.preprocess.canvas)
    if method == "finetune":
        # What the network learns to read: the augmented views squeeze a picture into the square.
        pictures = Preprocess(pictures.canvas, mean=pictures.mean, std=pictures.std)
    model = dataclasses.replace(model, preprocess=pictures)
    train, held = _split(source, validation, seed)
    log.info(
        "%s: %d classes, %d to train, %d held out", data, len(source.classes), len(train), len(held)
    )
    # Scored as the saved model will read pictures.
    transform = {"fn": "intern_jax.weights.preprocess:classification", **pictures.plain}
    parts = Subset(source, train), Subset(source, held)
    if method == "probe":
        logits, made = _probe(model, *parts, transform, l2, seed)
    else:
        fitted = fit.train_model(
            model.spec,
            parts[0],
            family="classification",
            size=pictures.canvas,
            flip=flip,
            cfg=fit.settings(steps, min(batch_size, len(train)), learning_rate),
            seed=seed,
            mesh=mesh_lib.make_mesh(data=1),
            init=model,
        )
        logits = fitted.predict(eval_arrays(parts[1], config_lib.bind(transform))["image"])
        made = fitted.model(model, source.classes)
    right = int((logits.argmax(-1) == source.labels[held]).sum())
    low, high = wilson_interval(right, len(held))
    summary = {
        "accuracy": right / len(held),
        "interval_low": low,
        "interval_high": high,
        "n_train": len(train),
        "n_validation": len(held),
        "method": method,
        "start": model.name,
    }
    save_model(out, dataclasses.replace(made, provenance=summary))
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


def _probe(
    model: Model,
    train: Source,
    held: Source,
    transform: Mapping[str, Any],
    l2: Sequence[float],
    seed: int,
) -> tuple[np.ndarray, Model]:
    """Logits of the held-out pictures, and the model with the probe as its head."""
    mesh = mesh_lib.make_mesh(data=1)
    known, asked = (
        cached(model, part, transform, branch="cls", outputs=("pooled",), mesh=mesh)
        for part in (train, held)
    )
    classes = tuple(train.classes or ())
    probe = fit_probe(known["pooled"], known["label"], len(classes), l2_grid=l2, seed=seed)
    head = Head.linear(classes, probe.kernel, probe.bias, probe.mean, probe.scale)
    return probe.logits(asked["pooled"]), dataclasses.replace(model, head=head)
