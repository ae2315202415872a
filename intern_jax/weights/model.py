"""The one loaded model: a network with its arrays, how it reads pictures, and a head where it has one.

Legend: B batch, N pictures, S the canvas' side, D features, K classes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data.read import given
from intern_jax.data.read.given import Picture
from intern_jax.models import zoo
from intern_jax.models.backbone import Same
from intern_jax.models.detection import canvas
from intern_jax.models.heads import readout
from intern_jax.ops.images import normalise
from intern_jax.tasks import prompts
from intern_jax.tasks import task as tasks
from intern_jax.tasks.task import Task, TaskHead
from intern_jax.train.state import unbox
from intern_jax.weights.preprocess import Preprocess
from intern_jax.weights.text_tower import TextTower

log = logging.getLogger(__name__)

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
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

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

    def __repr__(self) -> str:
        """One line: name, network, size, canvas, and what it answers."""
        numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(self.variables))
        network = (
            self.spec.get("name") or self.spec.get("fn") or self.spec.get("own") or "own network"
        )
        side = self.preprocess.canvas
        facts = [f"{numbers / 1e6:.3g}M parameters", f"reads {side} x {side}"]
        if self.head is not None:
            shown = ", ".join(self.classes[:3]) + (", ..." if self.classes[3:] else "")
            classes = f" of {len(self.classes)} classes ({shown})" if self.classes else ""
            facts.append(f"{self.head.family}{classes}")
        else:
            facts.append("features alone" if self.text is None else "features and texts")
        return f"<Model {self.name!r}: {network}, {', '.join(facts)}>"

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
        images: Picture | Iterable[Picture],
        *,
        output: str = "pooled",
        branch: str | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Features of pictures: [N,D] for "pooled" and other readouts, [N,H,W,C] for "layer1" ... "layer4".

        Rows of pictures that cannot be read are NaN, and a warning tells of them. UserError where none can be read.

        Args:
          images: one or several pictures, in any way that data/read/given.py tells: a path, a folder, bytes, an open
            file, a PIL image, an array; a list or a generator of these.
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

        return _rows(self._seen(images, run, batch_size))

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        top: int | None = None,
        batch_size: int = 32,
    ) -> list[Any]:
        """One answer per picture, in order. `images` are as in `features`; those of a folder are sorted by path.

        classification: {"label": str, "score": float, "scores": {label: probability}}, where `top` keeps only so many
        of the scores, the best first; segmentation: uint8 or int32 [H,W], an index into `classes`; depth: float32
        [H,W] in metres; both at the picture's own size.
        detection: {"boxes": float32 [d,4], "scores": float32 [d], "labels": names}, the surest first; a box is x1, y1,
        x2, y2 in the picture's own pixels.
        Another family's answer is what its Task says (tasks/task.py).
        Of a picture that cannot be read the answer is {"error": which and why}, and a warning tells of it. UserError
        where none can be read.
        """
        if self.head is None:
            raise UserError(
                "this model has no head; use features(), or learn one: python -m intern_jax adapt"
            )
        if top is not None and self.head.task.family.answer != "label":
            raise UserError(f"top: {self.head.family} has no best classes; leave top out")
        _check_top(top)
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
            _error(seen) if row is None else _best(answer(row, seen, self.classes), top)
            for row, seen in self._seen(images, answers, batch_size)
        ]

    def text_features(
        self, texts: str | Sequence[str] | np.ndarray, *, batch_size: int = 64
    ) -> np.ndarray:
        """Unit embeddings float32 [N,D] of texts, or of token ids int32 [N,L], in the space of `image_embeddings`."""
        return self._tower.features(texts, batch_size)

    def image_embeddings(
        self, images: Picture | Iterable[Picture], *, batch_size: int = 32
    ) -> np.ndarray:
        """Unit embeddings float32 [N,D] of pictures, in the space of `text_features`. `images` are as in `features`."""
        return _rows(self._seen(images, self._embed(), batch_size))

    def _embed(self) -> Run:
        tower = self._tower
        placed = dataclasses.replace(self, variables=jax.device_put(self.variables))

        def run(canvases: np.ndarray, _sizes: Any) -> jax.Array:
            # By the branch and BatchNorm set by which pairs are trained.
            return tower.projected(placed.outputs(canvases, "pairs", ("pooled",))["pooled"])

        return run

    def zero_shot(
        self,
        images: Picture | Iterable[Picture],
        class_names: Sequence[str],
        *,
        templates: str | Sequence[str] = "1",
        top: int | None = None,
        batch_size: int = 32,
    ) -> list[dict[str, Any]]:
        """One answer per picture, {"label", "score", "scores": {name: probability}}, of classes that are only named.

        `templates`: a set of tasks/prompts.py ("1", "7", "80", "name"), or texts with a {} for the class name. The
        probabilities are the softmax of the cosines times the model's scale. `images`, `top`, and the answer for a
        picture that cannot be read, are as in `predict`.
        """
        tower, names = self._tower, [str(name) for name in class_names]
        if not names or len(set(names)) < len(names):
            raise UserError("class_names: none, or one stands twice; give each class once")
        _check_top(top)
        forms = prompts.templates(templates)
        classes = prompts.class_embeddings(names, forms, tower.features)

        def answer(embedding_D: np.ndarray) -> dict[str, Any]:
            logits = (embedding_D @ classes.T).astype(np.float64) * tower.scale
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = int(logits.argmax())
            scores = dict(zip(names, shares.tolist(), strict=True))
            return {"label": names[best], "score": scores[names[best]], "scores": scores}

        return [
            _error(seen) if row is None else _best(answer(row), top)
            for row, seen in self._seen(images, self._embed(), batch_size)
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

    def _seen(
        self, images: Picture | Iterable[Picture], run: Run, size: int
    ) -> Iterator[tuple[np.ndarray | None, Any]]:
        """Per picture its result of `run` and its (height, width), or None and the error that says why there is none.

        Padded batches of `size` are run. UserError where no picture can be read.
        """
        waiting: list[tuple[int, int] | UserError] = []
        rows: list[np.ndarray] = []
        count, faults = 0, list[UserError]()
        for image, where in given.each(images):
            count += 1
            if len(rows) == size:
                yield from _answered(run, rows, waiting, size)
                rows, waiting = [], []
            try:
                pixels = given.as_array(image, where)
            except UserError as error:
                faults.append(error)
                waiting.append(error)
                continue
            rows.append(self.preprocess.view(pixels))
            waiting.append(pixels.shape[:2])
        if not count:
            raise UserError("images: none given; give at least one path, PIL image or array")
        if len(faults) == count:
            others = f" (nor can the {count - 1} others be read)" if count > 1 else ""
            raise UserError(f"{faults[0]}{others}")
        yield from _answered(run, rows, waiting, size)
        if faults:
            log.warning("%d of %d pictures cannot be read: %s", len(faults), count, faults[0])


def _answered(
    run: Run, rows: list[np.ndarray], waiting: list[tuple[int, int] | UserError], size: int
) -> Iterator[tuple[np.ndarray | None, Any]]:
    """The results of the pictures that wait, in order; `rows` are the canvases of those that can be read."""
    sizes = [one for one in waiting if not isinstance(one, UserError)]
    results = iter(_run(run, rows, sizes, size) if rows else ())
    for one in waiting:
        yield (None, one) if isinstance(one, UserError) else (next(results), one)


def _rows(seen: Iterable[tuple[np.ndarray | None, Any]]) -> np.ndarray:
    """The results of all pictures [N,...]; NaN for those that cannot be read."""
    rows = [row for row, _ in seen]
    like = next(row for row in rows if row is not None)
    return np.stack([np.full_like(like, np.nan) if row is None else row for row in rows])


def _error(fault: Any) -> dict[str, str]:
    """The answer for a picture that cannot be read."""
    return {"error": str(fault)}


def _check_top(top: Any) -> None:
    if top is not None and (
        not isinstance(top, int | np.integer) or isinstance(top, bool) or top < 1
    ):
        raise UserError(f"top: {top!r:.40}; give a number of classes from 1 on")


def _best(answer: Any, top: int | None) -> Any:
    """An answer of classes with the scores of the `top` best alone, in their order; as it is where that is None."""
    if top is None:
        return answer
    ordered = sorted(answer["scores"].items(), key=lambda item: -item[1])
    return answer | {"scores": dict(ordered[:top])}


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
