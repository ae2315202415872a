"""Model folders: what a trained model is on disk, and the `Model` that opens one.

    model.json            plain data: zoo name and settings, task, classes, canvas, provenance
    weights.safetensors   arrays named as in training: params/backbone/..., params/head/...
    card.md               the same for a reader

A folder can come from anyone. It names no code and no other file, nothing in it is unpickled, and
every array is checked against the shapes that its backbone and head must have before it is read.
Of a backbone that is not in the zoo it holds the settings and, as text, the name of the function that
made it; who opens it gives the function.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from intern_jax import families
from intern_jax.core import tree as tree_lib
from intern_jax.core.config import UserError
from intern_jax.core.files import write_text
from intern_jax.models import own, zoo
from intern_jax.models.backbone import Backbone, Same
from intern_jax.ops.images import normalise
from intern_jax.tasks.task import TaskHead
from intern_jax.version import __version__
from intern_jax.weights import safetensors
from intern_jax.weights.card import card
from intern_jax.weights.checks import check_files, check_info
from intern_jax.weights.preprocess import Image, as_arrays, canvas_of, resize_maps

FORMAT = "intern_jax.model/1"
DEFAULT = pathlib.Path(__file__).parent / "default"
# Features of a backbone without a head are by default those of classification.
BRANCH = {family.name: family.branch for family in families.known()} | {"backbone": "cls"}


class NeedsFunction(UserError):
    """A folder's backbone is code of its author's, called `name`; whoever opens it must give the function."""

    def __init__(self, path: str | os.PathLike[str], name: str):
        super().__init__(
            f"{path}: its backbone is its author's own, {name!r}, and a folder brings no code; open it by "
            "intern_jax.load(path, backbone=FUNCTION), the function or class of that name"
        )
        self.name = name


def save_model(
    folder: str | os.PathLike[str],
    *,
    task: str,
    backbone: Mapping[str, Any],
    variables: Mapping[str, Any],
    canvas: int,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] = (),
    dense_width: int = 64,
    dtype: str = "float32",
    provenance: Mapping[str, Any] | None = None,
    network: Backbone | None = None,
) -> pathlib.Path:
    """Writes a model folder and returns its path.

    Args:
      task: "classification", "segmentation", "depth", or "backbone" for features alone.
      backbone: what `zoo.from_config` takes, such as {"name": "embedded"}; of {"fn": ...} the name is
        stored as text.
      variables: {"params": {"backbone": ..., "head": ...}, "batch_stats": {...}}, as `FineTune`
        trains them; for a linear probe see `linear_head`.
      canvas: side in pixels of the square picture the model reads.
      mean, std: of pixel values in [0, 1], by which the model's pictures are normalised.
      classes: names of the head's outputs, in order; none for "depth" and "backbone".
      dtype: "float32", or "float16" for half the file (parameters are float32 again once loaded).
      provenance: anything plain that tells where the weights come from; shown on the card.
      network: the backbone's module, where `backbone` is an opened folder's and not of the zoo.

    Raises UserError for a folder that holds something else, or arrays of the wrong shape.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / "model.json").exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds other files already; name a new folder")
    if network is None and zoo.names_code(backbone):
        network = zoo.from_config(backbone)
    info = {
        "format": FORMAT,
        "version": __version__,
        "task": task,
        "backbone": own.as_text(backbone),
        "canvas": int(canvas),
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "classes": list(classes),
        "dense_width": int(dense_width),
        "provenance": dict(provenance or {}),
    }
    check_info(folder / "model.json", info | {"weights_sha256": ""})
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), meta.unbox(dict(variables)))
    shapes = {name: leaf.shape for name, leaf in tree_lib.names(arrays).items()}
    _check_shapes(folder, shapes, _expected_shapes(folder / "model.json", info, network))
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    safetensors.save(weights, arrays, {"version": __version__})
    info["weights_sha256"] = _sha256(weights)
    (folder / "card.md").write_text(card(info, sum(np.size(v) for v in jax.tree.leaves(arrays))))
    write_text(folder / "model.json", json.dumps(info, indent=1) + "\n")
    return folder


def linear_head(
    kernel_DxK: np.ndarray,
    bias_K: np.ndarray,
    mean_D: np.ndarray | None = None,
    scale_D: np.ndarray | None = None,
) -> dict[str, Any]:
    """A linear probe as head parameters; `mean` and `scale` of the features are folded in."""
    kernel, bias = np.asarray(kernel_DxK, np.float64), np.asarray(bias_K, np.float64)
    if scale_D is not None:
        kernel = kernel / np.asarray(scale_D, np.float64)[:, None]
    if mean_D is not None:
        bias = bias - np.asarray(mean_D, np.float64) @ kernel
    arrays = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return {"linear": {"classifier": arrays}}


def load_model(folder: str | os.PathLike[str], backbone: Any = None) -> Model:
    """Opens a model folder; raises UserError where it is missing, damaged or not plain data.

    `backbone`: for a network that is not in the zoo, the function that makes it of the stored settings,
    or the module; NeedsFunction is raised where it is missing.
    """
    folder = pathlib.Path(folder)
    if folder == DEFAULT and not (DEFAULT / "model.json").exists():
        raise UserError("no model ships with this version; give the path of a model folder")
    path, weights = check_files(folder, ("model.json", "weights.safetensors"))
    info = read_info(path)
    network = _given_network(path, info["backbone"], backbone)
    header = safetensors.read_header(weights)
    shapes = {
        name: tuple(entry.get("shape", ()))
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_shapes(weights, shapes, _expected_shapes(path, info, network))
    if _sha256(weights) != info["weights_sha256"]:
        raise UserError(f"{weights}: damaged, its digest is not model.json's; copy it again")
    return Model(info, safetensors.load(weights), network)


def read_info(path: pathlib.Path) -> dict[str, Any]:
    """The content of a model.json, checked; see weights/checks.py."""
    try:
        info = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the folder again") from None
    if isinstance(info, dict) and info.get("format") != FORMAT:
        found = info.get("format")
        raise UserError(f"{path}: format is {found!r}, this version reads {FORMAT!r}; save it anew")
    check_info(path, info)
    return info


def _given_network(path: pathlib.Path, stored: Mapping[str, Any], given: Any) -> Backbone | None:
    """The module of a backbone that is not in the zoo; None for one that is."""
    name = own.text_in(stored)
    if name is None:
        if given is not None:
            raise UserError(f"{path}: its backbone is {stored['name']}, of the zoo; give none")
        return None
    if given is None:
        raise NeedsFunction(path, name)
    return own.opened(stored, given, str(path))


class Model:
    """An opened model folder: `features` of pictures, and `predict` where it has a head.

    `info` is model.json, `variables` the arrays as they were trained, in float32; `network` the backbone's
    module, where it is not of the zoo.
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        variables: Mapping[str, Any],
        network: Backbone | None = None,
    ):
        self.info = dict(info)
        self.network = network
        self.task: str = info["task"]
        self.classes: tuple[str, ...] = tuple(info["classes"])
        self.canvas: int = info["canvas"]
        self.variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(variables))

    @property
    def backbone(self) -> dict[str, Any]:
        """The zoo spec of the backbone; of another, its settings and the text "own"."""
        return self.info["backbone"]

    @property
    def backbone_variables(self) -> dict[str, Any]:
        """{"params": ..., "batch_stats": ...} of the backbone alone, to start a training from."""
        return {
            name: tree["backbone"] for name, tree in self.variables.items() if "backbone" in tree
        }

    def features(
        self,
        images: Image | Iterable[Image],
        *,
        output: str = "pooled",
        branch: str | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Features of pictures: [N, D] for "pooled", [N, H, W, C] for "layer1" ... "layer4".

        Args:
          images: one or several of: a path, a PIL image, a uint8 array [H, W, 3 or 4].
          branch: "cls" or "dense", or another branch's name, for a backbone that has several (default:
            this model's).
          batch_size: pictures are padded to it, so that each size is compiled once.
        """
        branch = branch or BRANCH[self.task]
        known = getattr(self.network or zoo.build(self.backbone), "branches", (branch,))
        if branch not in known:
            raise UserError(
                f"features: no branch {branch!r}; this model has {', '.join(known)}: give branch=..."
            )
        run = functools.partial(self._apply, output, branch)
        return np.concatenate([rows for rows, _ in self._batches(images, run, batch_size)])

    def predict(self, images: Image | Iterable[Image], *, batch_size: int = 32) -> list[Any]:
        """One answer a picture, in order.

        classification: {"label": str, "score": float, "scores": {label: probability}};
        segmentation: uint8 or int32 [H, W], an index into `classes`; depth: float32 [H, W] in
        metres; both at the picture's own size.
        """
        if self.task == "backbone":
            raise UserError(
                "this model has no head; use features(), or learn one: python -m intern_jax adapt"
            )
        run = functools.partial(self._apply, "head", BRANCH[self.task])
        answers = []
        for rows, sizes in self._batches(images, run, batch_size):
            answers += [self._answer(row, size) for row, size in zip(rows, sizes, strict=True)]
        return answers

    def _batches(self, images, run, batch_size: int) -> Iterator[tuple[np.ndarray, list]]:
        """Results [n, ...] and the pictures' (height, width), a padded batch at a time."""
        pending, sizes = [], []
        empty = True
        for image in as_arrays(images):
            empty = False
            pending.append(canvas_of(image, self.canvas))
            sizes.append(image.shape[:2])
            if len(pending) == batch_size:
                yield run(pending, batch_size), sizes
                pending, sizes = [], []
        if pending:
            yield run(pending, batch_size), sizes
        if empty:
            raise UserError("images: none given; give at least one path, PIL image or array")

    def _apply(self, output: str, branch: str, rows: list[np.ndarray], size: int) -> np.ndarray:
        batch = np.zeros((size, self.canvas, self.canvas, 3), np.uint8)
        batch[: len(rows)] = rows
        network = None if self.network is None else Same(self.network)
        run = _forward(json.dumps(self.info, sort_keys=True), network, output, branch)
        out = run(self.variables, batch)
        return np.asarray(out)[: len(rows)]

    def _answer(self, row: np.ndarray, size: tuple[int, int]) -> Any:
        if self.task == "classification":
            best = int(row.argmax())
            scores = dict(zip(self.classes, row.tolist(), strict=True))
            return {"label": self.classes[best], "score": float(row[best]), "scores": scores}
        maps = resize_maps(row, size)
        if self.task == "depth":
            return np.exp(maps[..., 0])
        return maps.argmax(-1).astype(np.uint8 if len(self.classes) < 256 else np.int32)


@functools.lru_cache(maxsize=16)
def _forward(info: str, network: Same | None, output: str, branch: str):
    """The jitted (variables, uint8 [B,S,S,3]) -> one output; "head" is the answer's array."""
    info = json.loads(info)
    backbone = zoo.build(info["backbone"]) if network is None else network.module
    head = _head(info)

    def part(variables, name):
        return {key: tree[name] for key, tree in variables.items() if name in tree}

    @jax.jit
    def forward(variables, images_BxSxSx3):
        x = normalise(images_BxSxSx3, info["mean"], info["std"])
        out = backbone.apply(part(variables, "backbone"), x, train=False, task=branch)
        if output != "head":
            if output not in out:
                known = ", ".join(sorted(out))
                raise UserError(f"features: no output {output!r}; known: {known}")
            return out[output]
        logits = head.apply(part(variables, "head"), out, x.shape[1:3])
        return jax.nn.softmax(logits) if info["task"] == "classification" else logits

    return forward


def _head(info: Mapping[str, Any]) -> TaskHead | None:
    if info["task"] == "backbone":
        return None
    width = {} if info["task"] == "classification" else {"width": info["dense_width"]}
    return TaskHead(info["task"], len(info["classes"]), settings=width)


def _expected_shapes(
    path: pathlib.Path, info: Mapping[str, Any], network: Backbone | None = None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that the weights must have, found without computing anything."""
    images = jax.ShapeDtypeStruct((1, info["canvas"], info["canvas"], 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        backbone = zoo.build(info["backbone"]) if network is None else network
        task = BRANCH[info["task"]]
        init = functools.partial(backbone.init_with_output, train=False, task=task)
        features, variables = jax.eval_shape(init, key, images)
        parts = {"backbone": variables}
        if head := _head(info):
            init = functools.partial(head.init, size=(info["canvas"], info["canvas"]))
            parts["head"] = jax.eval_shape(init, key, features)
    except UserError as error:
        raise UserError(f"{path}: backbone: {error}") from None
    except Exception as error:
        # Settings from anywhere make modules fail in any way; all of them are one mistake.
        reason = str(error).split("\n")[0][:200]
        raise UserError(f"{path}: backbone: cannot be built ({reason}); check it") from None
    shapes = {}
    for part, variables in parts.items():
        for name, leaf in tree_lib.names(meta.unbox(variables)).items():
            collection, rest = name.split("/", 1)
            shapes[f"{collection}/{part}/{rest}"] = tuple(leaf.shape)
    return shapes


def _check_shapes(path: pathlib.Path, found: Mapping[str, tuple], expected: Mapping[str, tuple]):
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            problem = f"{name}: missing"
        elif name not in expected:
            problem = f"{name}: not an array of this backbone and head"
        elif tuple(found[name]) != tuple(expected[name]):
            problem = f"{name}: shape {list(found[name])}, expected {list(expected[name])}"
        else:
            continue
        raise UserError(f"{path}: {problem}; weights and model.json must be of one model")


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
