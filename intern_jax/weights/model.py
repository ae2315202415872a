"""The one loaded model: a network with its arrays, how it reads pictures, and a head where it has one.

Legend: B batch, N pictures, S the canvas' side, D features, K classes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.models import zoo
from intern_jax.models.backbone import Same
from intern_jax.models.detection import canvas
from intern_jax.models.heads import readout
from intern_jax.ops.images import normalise
from intern_jax.tasks import prompts
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import Task, TaskHead
from intern_jax.train.state import unbox
from intern_jax.weights.preprocess import Image, Preprocess, as_arrays
from intern_jax.weights.text_tower import TextTower

# The preprocessing of a model that states none: that of the embedded images.
USUAL = Preprocess(32)
# From canvases uint8 [B,S,S,3] and the sizes (H, W) of the first of them, the pictures; the others are padding.
Run = Callable[[np.ndarray, Sequence[tuple[int, int]]], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The part of a model that turns features into answers.

    family     name of the task family
    classes    names of the head's outputs, in order; none for a family without classes
    decoder    one of the family's decoders (tasks/); "" means the usual one
    settings   fields of the decoder, as plain values
    variables  collections of the head, {"params": ..., "batch_stats": ...}
    """

    family: str
    classes: Sequence[str] = ()
    decoder: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def linear(
        cls,
        classes: Sequence[str],
        kernel_DxK: np.ndarray,
        bias_K: np.ndarray,
        mean_D: np.ndarray | None = None,
        scale_D: np.ndarray | None = None,
        readout: str = "pooled",
    ) -> Head:
        """A linear probe of a readout (models/heads/readout.py) as a classifier.

        `mean` and `scale` of the features are folded in.
        """
        kernel, bias = np.asarray(kernel_DxK, np.float64), np.asarray(bias_K, np.float64)
        if scale_D is not None:
            kernel = kernel / np.asarray(scale_D, np.float64)[:, None]
        if mean_D is not None:
            bias = bias - np.asarray(mean_D, np.float64) @ kernel
        arrays = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        params = {"linear": {"classifier": arrays}}
        settings = {} if readout == "pooled" else {"readout": readout}
        return cls(
            "classification", tuple(classes), settings=settings, variables={"params": params}
        )

    @property
    def task(self) -> Task:
        """The Task of the family; UserError for a family that no model here is trained for."""
        return tasks.find(self.family)

    def build(self) -> TaskHead:
        """The Flax module. Heads with equal keys share one object."""
        return _head_module(self.key)

    @property
    def key(self) -> str:
        """Everything that the module depends on, as text."""
        return _frozen([self.family, len(self.classes), self.decoder, dict(self.settings)])


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A loaded backbone, with or without a head.

    spec        builds the network: {"name": a variant of the zoo, **settings}, or {"fn": dotted name, **arguments}.
                A `network` without such a name has plain values that tell it from others.
    variables   collections of the backbone, {"params": ..., "batch_stats": ...}
    name        shown with the scores; part of the keys of cached features
    preprocess  how the model reads pictures
    network     a network that is not in the zoo: a Flax module, or any object with apply(variables,
                images [B,H,W,3], train=False, task=branch). It gives "pooled" [B,D] and, for dense families, the maps
                "layer1" ... "layer4" [B,h,w,C] at strides 4, 8, 16, 32.
    head        turns features into answers; None for features alone
    provenance  plain values that tell where the weights come from; shown on the card
    text        a text tower, for a model that learnt from pictures with texts
    """

    spec: Mapping[str, Any]
    variables: Mapping[str, Any]
    name: str
    preprocess: Preprocess = USUAL
    network: Any = None
    head: Head | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: TextTower | None = None

    # --- making -----------------------------------------------------------------------------------

    @classmethod
    def random(cls, spec: Mapping[str, Any], seed: int) -> Model:
        """An untrained backbone, which reads whole pictures of its usual size: the ladder's lowest rung."""
        module = _module(_frozen(spec))
        side = zoo.usual_side(spec, module)
        images = jnp.zeros((2, side, side, 3), jnp.float32)
        init = functools.partial(module.init, train=False)
        options = mesh_lib.options_of_one_run(jax.default_backend())
        variables = jax.jit(init, compiler_options=options)(
            {"params": jax.random.key(seed)}, images
        )
        pictures = dataclasses.replace(USUAL, canvas=side)
        return cls(spec, jax.device_get(unbox(variables)), f"random-{seed}", pictures)

    @classmethod
    def from_arrays(
        cls, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str
    ) -> Model:
        """Take the arrays named "<collection>/backbone/..." out of a stage's product."""
        picked = {}
        for path, value in arrays.items():
            collection, _, rest = path.partition("/")
            if rest.startswith("backbone/"):
                picked[f"{collection}/{rest.removeprefix('backbone/')}"] = value
        if not picked:
            raise UserError(
                f"{name}: holds no backbone/... arrays; was it made by a stage of ours?"
            )
        return cls(spec, tree.unflatten(picked), name)

    # --- what it is -------------------------------------------------------------------------------

    def build(self) -> Any:
        """The network. Models of the zoo with equal specs share one module."""
        return _module(_frozen(self.spec)) if self.network is None else self.network

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the head's outputs; () without a head."""
        return () if self.head is None else tuple(self.head.classes)

    @property
    def branch(self) -> str:
        """The branch and BatchNorm set that features come from by default, as the network's call takes them.

        "" if the head's readout names its branches and the network has none for the head's family.
        """
        return readout.main_route(self.build(), self._task, self._reads)

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of spec, preprocessing and every array, but not of the canvas.

        A key that holds it also holds the size of the pictures.
        """
        facts: dict[str, Any] = {"spec": self.spec}
        plain, usual = self.preprocess.plain, USUAL.plain
        for name in ("mean", "std", "resize", "crop", "interpolation"):
            # A usual value has no entry, so digests from before there was a choice stay valid.
            if name in ("mean", "std") or plain[name] != usual[name]:
                facts[name] = plain[name]
        total = hashlib.sha256(_frozen(facts).encode())
        for name, value in tree.names(self.variables).items():
            value = np.ascontiguousarray(jax.device_get(value))
            total.update(f"\n{name} {value.dtype} {value.shape}\n".encode())
            total.update(value.tobytes())
        return total.hexdigest()[:16]

    def arrays(self) -> dict[str, np.ndarray]:
        """The backbone's flat arrays under "<collection>/backbone/...", as a training starts from them."""
        flat = tree.names(self.variables)
        return {path.replace("/", "/backbone/", 1): value for path, value in flat.items()}

    # --- use --------------------------------------------------------------------------------------

    def features(
        self,
        images: Image | Iterable[Image],
        *,
        output: str = "pooled",
        branch: str | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Features of pictures: [N,D] for "pooled" and other readouts, [N,H,W,C] for "layer1" ... "layer4".

        Args:
          images: one or several of: a path, a PIL image, a uint8 array [H,W,3 or 4].
          output: the name of an output, or a readout of maps and branches such as "layers:cls+dense@layer4+pooled"
            (models/heads/readout.py). One that names its branches needs no `branch`.
          branch: a branch, BRANCH/SET or task family, for a backbone that has several branches or BatchNorm sets
            (default: this model's).
          batch_size: pictures are padded to it, so that each size is compiled once.
        """
        self.check_outputs((output,), branch)
        placed = dataclasses.replace(self, variables=jax.device_put(self.variables))

        def run(canvases: np.ndarray, _sizes: Any) -> jax.Array:
            return placed.outputs(canvases, branch, (output,))[output]

        return np.concatenate([rows for rows, _ in self._batches(images, run, batch_size)])

    def predict(self, images: Image | Iterable[Image], *, batch_size: int = 32) -> list[Any]:
        """One answer per picture, in order.

        classification: {"label": str, "score": float, "scores": {label: probability}}; segmentation: uint8 or
        int32 [H,W], an index into `classes`; depth: float32 [H,W] in metres; both at the picture's own size.
        detection: {"boxes": float32 [d,4], "scores": float32 [d], "labels": names}, the surest first; a box is x1, y1,
        x2, y2 in the picture's own pixels.
        Another family's answer is what its Task says (tasks/task.py).
        """
        if self.head is None:
            raise UserError(
                "this model has no head; use features(), or learn one: python -m intern_jax adapt"
            )
        branch, pictures = self._route(None, self._reads), self.preprocess
        dtype = zoo.dtype_of(self.spec)
        run = _answers(
            Same(self.build()), branch, pictures.mean, pictures.std, self.head.key, dtype
        )
        placed = jax.device_put((self.variables, self.head.variables))
        # A detector learns that nothing lies outside its picture, so it is told where that ends.
        partly = pictures.resize == "fit" and self.head.task.family.answer == "boxes"

        def answers(canvases: np.ndarray, sizes: Sequence[tuple[int, int]]) -> jax.Array:
            extent = [pictures.extent(size) for size in sizes]
            extent += [(pictures.canvas, pictures.canvas)] * (len(canvases) - len(sizes))
            return run(*placed, canvases, np.asarray(extent, np.int32) if partly else None)

        answer = self.head.task.answer
        return [
            answer(row, size, self.classes)
            for rows, sizes in self._batches(images, answers, batch_size)
            for row, size in zip(rows, sizes, strict=True)
        ]

    def text_features(
        self, texts: str | Sequence[str] | np.ndarray, *, batch_size: int = 64
    ) -> np.ndarray:
        """Unit embeddings float32 [N,D] of texts, or of token ids int32 [N,L], in the space of `image_embeddings`."""
        return self._tower.features(texts, batch_size)

    def image_embeddings(
        self, images: Image | Iterable[Image], *, batch_size: int = 32
    ) -> np.ndarray:
        """Unit embeddings float32 [N,D] of pictures, in the space of `text_features`."""
        placed, tower = (
            dataclasses.replace(self, variables=jax.device_put(self.variables)),
            self._tower,
        )

        def run(canvases: np.ndarray, _sizes: Any) -> jax.Array:
            # By the branch and BatchNorm set by which pairs are trained.
            return tower.projected(placed.outputs(canvases, "pairs", ("pooled",))["pooled"])

        return np.concatenate([rows for rows, _ in self._batches(images, run, batch_size)])

    def zero_shot(
        self,
        images: Image | Iterable[Image],
        class_names: Sequence[str],
        *,
        templates: str | Sequence[str] = "1",
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """One answer per picture, {"label", "score", "scores": {name: probability}}, of classes that are only named.

        `templates`: a set of tasks/prompts.py ("1", "7", "80", "name"), or texts with a {} for the class name. The
        probabilities are the softmax of the cosines times the model's scale.
        """
        tower, names = self._tower, [str(name) for name in class_names]
        if not names or len(set(names)) < len(names):
            raise UserError("class_names: none, or one stands twice; give each class once")
        forms = prompts.templates(templates)
        classes = prompts.class_embeddings(names, forms, tower.features)
        cosines = self.image_embeddings(images, batch_size=batch_size) @ classes.T
        logits = cosines.astype(np.float64) * tower.scale
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = cosines.argmax(axis=1)
        return [
            {
                "label": names[k],
                "score": float(row[k]),
                "scores": dict(zip(names, map(float, row), strict=True)),
            }
            for k, row in zip(best, shares, strict=True)
        ]

    def with_tokenizer(self, tokenizer: str) -> Model:
        """The same model with another source of its tokenizer, such as "clip:PATH" with the file of CLIP's merges."""
        return dataclasses.replace(self, text=dataclasses.replace(self._tower, tokenizer=tokenizer))

    @property
    def _tower(self) -> TextTower:
        if self.text is None:
            raise UserError(
                f"{self.name}: has no text tower; convert a CLIP, or train on pictures with texts"
            )
        return self.text

    def outputs(
        self,
        images: jax.Array | np.ndarray,
        branch: str | None,
        names: Sequence[str],
        extent: jax.Array | np.ndarray | None = None,
    ) -> dict[str, jax.Array]:
        """Chosen outputs, or readouts, of canvases uint8 [B,S,S,3], in eval mode, left on the device.

        `branch` is as in `features`.
        `extent` int32 [B,2]: where pictures end on their canvases (models/detection/canvas.py); None: they fill them.
        Compiled once per network, branch, names and shape.
        """
        branch, pictures = self._route(branch, names), self.preprocess
        run = _features(Same(self.build()), branch, tuple(names), pictures.mean, pictures.std)
        return run(self.variables, images, extent)

    def shapes(self, variables: Any, images: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of what the head reads, by those of the variables and of normalised images; nothing is computed."""
        network, branch, names = self.build(), self.branch, self._reads
        see = functools.partial(readout.outputs, network, branch=branch, names=names)
        return jax.eval_shape(see, variables, images)

    def check_outputs(self, names: Sequence[str], branch: str | None = None) -> None:
        """Refuse `names` of readouts that do not exist, or that name a branch which the network lacks."""
        self._route(branch, names)
        try:
            readout.check(self.build(), names, self._task if branch is None else branch)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    @property
    def _task(self) -> str:
        return "cls" if self.head is None else self.head.family

    @property
    def _reads(self) -> tuple[str, ...]:
        """The readout that the head reads; none without a head, "" for one that reads outputs."""
        return () if self.head is None else (self.head.task.readout(self.head.settings),)

    def _route(self, branch: str | None, names: Sequence[str]) -> str:
        task = self._task if branch is None else branch
        try:
            return readout.main_route(self.build(), task, names)
        except UserError as error:
            raise UserError(f"{self.name}: {error}: give branch=...") from None

    def _batches(
        self, images: Image | Iterable[Image], run: Run, size: int
    ) -> Iterator[tuple[np.ndarray, list[tuple[int, int]]]]:
        """Results [n,...] of `run` and the pictures' (height, width), a padded batch at a time."""
        rows: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        for image in as_arrays(images):
            if len(rows) == size:
                yield _run(run, rows, sizes, size), sizes
                rows, sizes = [], []
            rows.append(self.preprocess.view(image))
            sizes.append(image.shape[:2])
        if not rows:
            raise UserError("images: none given; give at least one path, PIL image or array")
        yield _run(run, rows, sizes, size), sizes


def _run(run: Run, rows: list[np.ndarray], sizes: list[tuple[int, int]], size: int) -> np.ndarray:
    batch = np.zeros((size, *rows[0].shape), np.uint8)
    batch[: len(rows)] = rows
    return np.asarray(run(batch, sizes))[: len(rows)]


def _frozen(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True)


@functools.lru_cache
def _module(spec: str) -> Any:
    return zoo.from_config(json.loads(spec))


@functools.lru_cache
def _head_module(key: str) -> TaskHead:
    family, num_classes, decoder, settings = json.loads(key)
    return TaskHead(family, num_classes, decoder, settings)


@functools.lru_cache
def _features(same: Same, branch: str, names: tuple[str, ...], mean: tuple, std: tuple) -> Callable:
    """Compiled (variables, uint8 [B,S,S,3], extent [B,2] or None) -> {name: output}."""

    @jax.jit
    def apply(variables, images, extent):
        size = images.shape[1:3]
        with canvas.only_inside(extent, size):
            x = canvas.cut(normalise(images, mean, std), extent, size)
            out = readout.outputs(same.module, variables, x, branch, names)
        for name in names:
            if name not in out:
                known = ", ".join(sorted(out))
                raise UserError(f"features: no output {name!r}; known: {known}")
        return {name: out[name] for name in names}

    return apply


@functools.lru_cache
def _answers(same: Same, branch: str, mean: tuple, std: tuple, head: str, dtype: Any) -> Callable:
    """Compiled (the backbone's variables, the head's, uint8 [B,S,S,3], extent [B,2]) -> rows of the family's answers.

    The extent is None where pictures fill their canvases (models/detection/canvas.py).
    """
    module = _head_module(head).clone(dtype=dtype)
    task, settings = tasks.find(module.family), module.settings or {}

    @jax.jit
    def apply(backbone, variables, images, extent):
        size = images.shape[1:3]
        rows = None if extent is None else {"extent": extent}
        with canvas.only_inside(extent, size):
            x = canvas.cut(normalise(images, mean, std), extent, size)
            reads = [task.readout(settings)]
            features = readout.outputs(same.module, backbone, x, branch, reads)
            out: Any = module.apply(variables, features, size, False, rows)
        return task.finish(out)

    return apply
