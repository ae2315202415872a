"""The generalist: two experts' backbones, each fed by the other through knowledge-transfer modules.

After layers 1, 2 and 3 of the main branch: main_t += sum over s <= t of
T_{s->t}(stop_gradient(aux_s)), and the sum goes on through the main branch (the paper's Up-G, whose
code calls the module "cross conv"). No gradient reaches the auxiliary branch, which is evaluated
first and stops after its layer 3. At initialisation every module outputs 0: the generalist's
outputs are its experts'. Legend: B batch, H height, W width, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax import lax

from intern_jax.models.backbone import Part
from intern_jax.models.layers import NARROW, WIDEN, BatchNorm, Conv, Dtype
from intern_jax.models.metanet import MetaNet

# A task family's main branch and its BatchNorm set have the same name.
FAMILIES = ("cls", "dense")
LINKED_LAYERS = 3


class Path(nn.Module):
    """One auxiliary map to a main one's size and channels: 1x1, or a stride-2 3x3 per halving.

    Only the last scale starts at 0. The original (`parity`) starts all at 0, and then everything
    before the last BatchNorm of a path of two convolutions never gets a gradient.
    """

    features: int
    halvings: int
    parity: bool = False
    sets: tuple[str, ...] = ()
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, task: str | None = None) -> jax.Array:
        convolutions = max(1, self.halvings)
        for index in range(convolutions):
            last = index == convolutions - 1
            x = Conv(
                self.features if last else x.shape[-1],
                kernel_size=3 if self.halvings else 1,
                stride=2 if self.halvings else 1,
                axes=NARROW if last else WIDEN,
                kernel_init=nn.initializers.normal(1e-3),
                dtype=self.dtype,
                name=f"conv_{index}",
            )(x)
            zero = last or self.parity
            init = nn.initializers.zeros if zero else nn.initializers.ones
            x = BatchNorm(self.sets, init, name=f"norm_{index}")(x, train, task)
            if not last:
                x = nn.relu(x)
        return x


class Transfer(nn.Module):
    """All paths of one direction; branches of equal strides and channels."""

    channels: Sequence[int]
    strides: Sequence[int]
    parity: bool = False
    sets: Sequence[str] = ()
    dtype: Dtype | None = None

    def setup(self) -> None:
        for target in range(1, LINKED_LAYERS + 1):
            for source in range(1, target + 1):
                ratio = self.strides[target - 1] // self.strides[source - 1]
                path = Path(
                    self.channels[target - 1],
                    halvings=ratio.bit_length() - 1,
                    parity=self.parity,
                    sets=tuple(self.sets),
                    dtype=self.dtype,
                )
                setattr(self, _name(target, source), path)

    def __call__(
        self, sources: Sequence[jax.Array], train: bool, task: str | None = None
    ) -> jax.Array:
        """What the auxiliary layers 1..t (the `sources`) add to the main layer t."""
        target = len(sources)
        return sum(
            getattr(self, _name(target, source))(x, train, task)
            for source, x in enumerate(sources, start=1)
        )


def _name(target: int, source: int) -> str:
    return f"layer{target}_from_layer{source}"


class Generalist(nn.Module):
    """Two branches and the transfer modules of both directions, as one backbone.

    A call's `task` names the main branch. `branch`: settings of the network that either branch is,
    one of `family` (MetaNet, or another with its `level`, `pool` and `sets`); `parity`: initialise as
    the original does; `sets`: BatchNorm sets of branches and modules (none: one set for all tasks).
    """

    branch: Mapping[str, Any]
    parity: bool = False
    sets: Sequence[str] = FAMILIES
    family: type[nn.Module] = MetaNet

    def setup(self) -> None:
        settings = {**self.branch, "sets": tuple(self.sets)}
        self.cls, self.dense = self.family(**settings), self.family(**settings)
        links = [
            Transfer(
                self.cls.layer_channels,
                self.cls.layer_strides,
                self.parity,
                tuple(self.sets),
                self.cls.dtype,
            )
            for _ in FAMILIES
        ]
        self.transfer_cls, self.transfer_dense = links

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """The outputs of the branch of `task` ("cls" or "dense"), helped by the other."""
        if self.is_initializing():
            every = {name: self._forward(images, train, name) for name in FAMILIES}
            return every[task or FAMILIES[0]]
        if task not in FAMILIES:
            raise ValueError(f"Generalist: task is {task!r}; one of {', '.join(FAMILIES)}")
        return self._forward(images, train, task)

    def _forward(self, images, train, task):
        main, auxiliary, link = (
            (self.cls, self.dense, self.transfer_cls)
            if task == "cls"
            else (self.dense, self.cls, self.transfer_dense)
        )
        helpers, x = [], images
        for level in range(1, LINKED_LAYERS + 1):
            x = auxiliary.level(x, level, train, task)
            helpers.append(lax.stop_gradient(x))
        out, x = {}, images
        for level in range(1, len(main.layer_channels) + 1):
            x = main.level(x, level, train, task)
            if level <= LINKED_LAYERS:
                x = x + link(helpers[:level], train, task)
            out[f"layer{level}"] = x
        return out | {"pooled": main.pool(x, train, task)}

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Pixels of the image per position of layer1..layer4."""
        return self._one_branch().layer_strides

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4."""
        return self._one_branch().layer_channels

    @property
    def features(self) -> int:
        """Size of "pooled"."""
        return self._one_branch().features

    def parts(self) -> list[Part]:
        """The two branches and the transfer modules into each."""
        names = (*FAMILIES, *(f"transfer_{name}" for name in FAMILIES))
        return [Part(name, (name,)) for name in names]

    def _one_branch(self) -> nn.Module:
        return self.family(**self.branch, parent=None)
