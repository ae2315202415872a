"""A user's own task: pictures with labels or boxes in, a model folder and its estimated score out."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Annotated, Any

import numpy as np
import pydantic

from intern_jax.adapt import boxes, fit
from intern_jax.adapt.cache import cached
from intern_jax.adapt.probe import FOLDS, GRID, READOUT, fit_probe, fold_numbers
from intern_jax.adapt.scan import Readable, readable, tell_copies
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.core.schema import Settings, field
from intern_jax.data.batches.arrays import eval_arrays
from intern_jax.data.open.opening import LABELLED, open_data, splits_of
from intern_jax.data.schema.source import Source
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics.classification import fold_interval, wilson_interval
from intern_jax.models.heads import costs
from intern_jax.models.heads import readout as readout_lib
from intern_jax.weights.folder import check_out, save_model
from intern_jax.weights.model import Head, Model
from intern_jax.weights.opening import start
from intern_jax.weights.preprocess import Preprocess

log = logging.getLogger(__name__)
METHODS = ("probe", "finetune")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, int | float) else value


Penalty = Annotated[float, pydantic.Field(gt=0.0)]


class Knobs(Settings):
    """Settings of `adapt_folder` that are numbers, with their limits."""

    canvas: int | None = field(None, ge=1, say="a whole number of pixels")
    folds: int = field(FOLDS, ge=2, say="2 at least, 5 are usual")
    steps: int = field(400, ge=1, say="a whole number of at least 1")
    batch_size: int | None = field(None, ge=1, say="a whole number of at least 1")
    learning_rate: float = field(1e-3, gt=0.0, say="a number above 0")
    l2: Annotated[list[Penalty] | None, pydantic.BeforeValidator(_one_or_more)] = field(
        None, min_length=1, say="numbers above 0, such as (0.01,0.1)"
    )
    flip: bool = True
    seed: int = field(0, ge=0, say="a whole number, 0 or more")

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> "Knobs":
        """Those among `given` values by name; UserError for a wrong one."""
        return schema.read(cls, {name: given[name] for name in cls.model_fields}, "")


def adapt_folder(
    data: str | os.PathLike,
    out: str | os.PathLike,
    init: str | os.PathLike | None = None,
    method: str = "probe",
    canvas: int | None = None,
    folds: int = FOLDS,
    steps: int = 400,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    l2: float | Sequence[float] | None = None,
    readout: str | None = None,
    flip: bool = True,
    seed: int = 0,
    backbone: str | Callable[..., Any] | None = None,
    kind: str | None = None,
    split: str | None = None,
    level: int | None = None,
    head: str | None = None,
    head_settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Learn the classes of labelled pictures, or to find boxes, from a model folder's backbone; save a model folder.

    `data`: a path that data/open/opening.py recognises, such as DIR of DIR/<class>/*.jpg; `kind` says which it is,
    `split` which part of it, `level` how deep class folders lie (data/sources/folder.py). Where DIR has splits and none
    is asked for, the model learns from all but test, or else val, and is scored on that one.
    `init`: a model folder, a zoo name (random weights), or None for the weights that ship with the package.
    `method`: "probe" (frozen backbone, linear head by L-BFGS) or "finetune" (all weights, `steps` of
    `batch_size` at `learning_rate`). Without splits the saved model has learnt from all pictures. Its score is
    estimated: of `folds` equal parts each is predicted by a model that learnt from the others, its l2 chosen without
    the part. A finetune predicts one part only, for the time it takes. The score's 95% interval allows for folds that
    share their training pictures (metrics/classification.py: fold_interval).
    `canvas`: side in pixels of the pictures, if not the start's. `l2`: penalties that the probe chooses from by
    cross-validation. `readout`: what the probe reads of the backbone (models/heads/readout.py), such as "layers" or
    "pooled:cls+dense". Both have usual values. The result's "readout" says what it costs.
    `backbone`: "my_module:Net", or that function, where init's network is its author's own.
    Of pictures with boxes a detector is learnt (adapt/boxes.py): "probe" trains its head alone, by steps too. `head`
    and `head_settings` choose it. The usual `batch_size` is 64 pictures, and 16 with boxes.
    """
    l2, read = Knobs.checked(locals()).l2, _read(method, readout)
    check_out(out)
    source, scored = _opened(data, kind, split, level)
    if source.family == "detection":
        _none_of({"l2": l2, "readout": readout}, f"{data} has boxes, not labels")
        detector = boxes.detector_settings(head, head_settings)
        cfg = fit.settings(steps, batch_size or boxes.BATCH, learning_rate)
        model = start(init, seed, backbone)
        source = readable(source, str(data)).source
        learnt = boxes.adapt_boxes(model, source, method, detector, canvas, folds, cfg, flip, seed)
        return _saved(out, *learnt)
    _none_of({"head": head, "head_settings": head_settings}, f"{data} has no boxes")
    _labels(data, source)
    model = start(init, seed, backbone)
    if method == "probe":
        _named("readout", readout_lib.check, model.build(), [read], "classification")
    model = _reading(model, canvas, method)
    seen = readable(source, str(data))
    source, parts = seen.source, _parts(data, seen, scored, folds, seed)
    log.info("%s: %d classes, %d images", data, len(source.classes), len(source))
    # Scored as the saved model will read pictures.
    transform = {"fn": "intern_jax.weights.preprocess:classification", **model.preprocess.plain}
    if method == "probe":
        grid = GRID if l2 is None else l2
        right, made = _probe(model, source, transform, parts, grid, read, seed, not scored)
    else:
        cfg = fit.settings(steps, batch_size or 64, learning_rate)
        right, made = _finetune(model, source, transform, parts == 0, cfg, flip, seed, not scored)
    predicted = int(parts.max()) + 1 if method == "probe" else 1
    summary = {
        **_estimate(right, None if scored else folds, predicted),
        "n_train": int((parts < 0).sum()) if scored else len(source),
        "n_validation": len(right),
        "method": method,
        "readout": _cost(made, read),
        "start": model.name,
    }
    return _saved(out, summary, made)


def _opened(
    data: str | os.PathLike, kind: str | None, split: str | None, level: int | None
) -> tuple[Source, set[str]]:
    """The source, and the keys of the samples for scoring alone: those of a split, if none is asked for."""
    asked = {"split": split, "level": level}
    given = {name: value for name, value in asked.items() if value is not None}
    there = splits_of(data, kind) if split is None else ()
    held = next((one for one in ("test", "val") if one in there), None)
    if held is None or "train" not in there:
        return open_data(data, kind, **given), set()
    source = open_data(data, kind, split="+".join(there), **given)
    assert isinstance(source, ImageFolder)
    others = "+".join(one for one in there if one != held)
    log.info("%s: learns from the split %s, and is scored on %s", data, others, held)
    return source, {key for i, key in enumerate(source.keys) if source.split_of(i) == held}


def _parts(
    data: str | os.PathLike, seen: Readable, scored: Set[str], folds: int, seed: int
) -> np.ndarray:
    """int32 [N]: the part with which each picture is scored, -1 of one that is never held out.

    Those of the keys `scored` are the one part, or else each class is dealt over `folds` parts. Copies are told.
    """
    source, labels = seen.source, _labels(data, seen.source)
    if not scored:
        parts = fold_numbers(labels, folds, seed)
        if parts.max() < 1:
            raise UserError(f"{data}: no class has two images, so nothing can be scored; add some")
    else:
        parts = np.asarray([0 if key in scored else -1 for key in source.keys], np.int32)
        if parts.max() < 0:
            raise UserError(f"{data}: no picture that is to be scored can be read; repair them")
        unknown = sorted(set(range(len(source.classes))) - set(labels[parts < 0].tolist()))
        if unknown:
            name = source.classes[unknown[0]]
            raise UserError(
                f"{data}: class '{name}' has no picture to learn from; add some, or leave it out"
            )
    tell_copies(seen, parts, labels, str(data))
    return parts


def _reading(model: Model, canvas: int | None, method: str) -> Model:
    """The model with the preprocessing that its successor is to have."""
    pictures = dataclasses.replace(model.preprocess, canvas=canvas or model.preprocess.canvas)
    if method == "finetune":
        # What the network learns to read: the augmented views squeeze a picture into the square.
        pictures = Preprocess(pictures.canvas, mean=pictures.mean, std=pictures.std)
    return dataclasses.replace(model, preprocess=pictures)


def _estimate(right: np.ndarray, folds: int | None, predicted: int) -> dict[str, float]:
    """The accuracy of pictures in `predicted` of `folds` parts, and its interval; `right` is bool [N].

    Without `folds` the pictures are of a split, of which the model has seen none.
    """
    if folds is None:
        low, high = wilson_interval(int(right.sum()), len(right))
    else:
        low, high = fold_interval(int(right.sum()), len(right), folds, predicted)
    return {"accuracy": float(right.mean()), "interval_low": low, "interval_high": high}


def _saved(out: str | os.PathLike, summary: dict[str, Any], made: Model) -> dict[str, Any]:
    save_model(out, dataclasses.replace(made, provenance=summary))
    return {**summary, "model": str(out)}


def _read(method: str, readout: str | None) -> str:
    """What the head reads of the backbone; UserError for a method or readout that does not exist."""
    if method not in METHODS:
        raise UserError(f"method: no '{method}'; use {' or '.join(METHODS)}")
    read = READOUT if readout is None else str(readout)
    _named("readout", readout_lib.parse, read)
    return read if method == "probe" else "pooled"


def _named(field: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call a check whose UserError lacks the name of the field."""
    try:
        function(*arguments)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def _cost(model: Model, name: str) -> str:
    """What a readout of the model costs per picture, in words."""
    side = model.preprocess.canvas
    (found,) = costs.of(model.build(), model.variables, side, model.branch, [name])
    return str(found)


def _none_of(settings: Mapping[str, Any], reason: str) -> None:
    """Refuse settings that mean nothing for this data."""
    for name, value in settings.items():
        if value is not None:
            raise UserError(f"{name}: {reason}; leave {name} out")


def _labels(data: str | os.PathLike, source: Source) -> np.ndarray:
    """The source's labels int32 [N]. UserError if not every picture has one."""
    labels = source.labels
    if labels is None or len(source.classes) < 2:
        found = f"{len(source.classes)} classes" if source.classes else "none"
        raise UserError(
            f"{data}: to learn classes, every picture needs a label, of two classes at least (found: {found});"
            f" labels may come from {LABELLED}"
        )
    return labels


def _probe(
    model: Model,
    source: Source,
    transform: Mapping[str, Any],
    parts: np.ndarray,
    l2: Sequence[float],
    readout: str,
    seed: int,
    whole: bool,
) -> tuple[np.ndarray, Model]:
    """Whether each picture of a part was right, and the model with a probe as its head.

    That of all pictures where `whole`, and else of those that are in no part.
    """
    mesh = mesh_lib.make_mesh(data=1)
    seen = cached(model, source, transform, task="classification", outputs=(readout,), mesh=mesh)
    classes = tuple(source.classes)
    train = functools.partial(
        fit_probe, seen[readout], seen["label"], len(classes), l2_grid=l2, seed=seed
    )
    right = np.zeros(len(source), bool)
    for part in range(parts.max() + 1):
        held = parts == part
        probe = train(rows=np.flatnonzero(~held))
        right[held] = probe.logits(seen[readout][held]).argmax(-1) == seen["label"][held]
    if whole:
        probe = train()
    head = Head.linear(classes, probe.kernel, probe.bias, probe.mean, probe.scale, readout)
    return right[parts >= 0], dataclasses.replace(model, head=head)


def _finetune(
    model: Model,
    source: Source,
    transform: Mapping[str, Any],
    held: np.ndarray,
    cfg: Mapping[str, Any],
    flip: bool,
    seed: int,
    whole: bool,
) -> tuple[np.ndarray, Model]:
    """Whether each held-out picture was right by a model of the others; and that model, or one of all if `whole`."""

    def train(rows: np.ndarray) -> fit.TaskFit:
        size = min(cfg["batch_size"], len(rows))
        return fit.train_model(
            model.spec,
            Subset(source, rows),
            family="classification",
            size=model.preprocess.canvas,
            flip=flip,
            cfg={**cfg, "batch_size": size},
            seed=seed,
            mesh=mesh_lib.make_mesh(data=1),
            init=model,
        )

    asked = eval_arrays(Subset(source, np.flatnonzero(held)), config_lib.bind(transform))
    fitted = train(np.flatnonzero(~held))
    out = fitted.predict(asked["image"])
    if whole:
        fitted = train(np.arange(len(source)))
    return out.argmax(-1) == asked["label"], fitted.model(model, source.classes)
