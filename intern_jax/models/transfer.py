"""The generalist: experts' backbones are its branches, connected by knowledge-transfer modules.

One branch is the main one of a call; the others are auxiliary. After layers t = 1, 2 and 3 of the main
branch, for each auxiliary branch: main_t += sum over s <= t of T_{s->t}(stop_gradient(aux_s)). The main
branch continues with the sum. This is the paper's Up-G, which has two branches; its code calls the
module "cross conv". No gradient reaches an auxiliary branch, which runs first and stops after layer 3.
At initialisation every module outputs 0, so the generalist's outputs equal those of its experts.
Legend: B batch, H height, W width, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import NARROW, WIDEN, BatchNorm, Conv, Dtype
from intern_jax.models.metanet import MetaNet

LINKED_LAYERS = 3


class Path(nn.Module):
    """Maps an auxiliary map to the size and channels of a main one: a 1x1, or a stride-2 3x3 per halving.

    Only the last scale starts at 0. The original (`parity`) starts all scales at 0. In a path of two
    convolutions, nothing before the last BatchNorm then ever gets a gradient.
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
    """All paths from one branch into another. `channels` and `strides` are the main branch's; strides are shared."""

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
        """The sum that the auxiliary layers 1..t (the `sources`) add to the main layer t."""
        target = len(sources)
        return reduce(
            jnp.add,
            (
                getattr(self, _name(target, source))(x, train, task)
                for source, x in enumerate(sources, start=1)
            ),
        )


def _name(target: int, source: int) -> str:
    return f"layer{target}_from_layer{source}"


class Generalist(nn.Module):
    """A backbone of named branches, with transfer modules between all of them.

    The `task` of a call names the main branch. All branches are networks of class `family` (MetaNet, or
    another class with `level`, `pool` and `sets`) with the settings `branch`. Alternatively, `family` and
    `branch` are mappings by the branches' names. `parity` initialises as the original does. `sets` are the
    BatchNorm sets of branches and modules (None: the branches' names; empty: one set for all tasks). The
    module into branch A is named `transfer_A`; with three or more branches, `transfer_A_from_B`.
    """

    branch: Mapping[str, Any]
    parity: bool = False
    sets: Sequence[str] | None = None
    family: Callable[..., nn.Module] | Mapping[str, Callable[..., nn.Module]] = MetaNet
    branches: Sequence[str] = ("cls", "dense")

    def __post_init__(self) -> None:
        if self.sets is None:
            object.__setattr__(self, "sets", tuple(self.branches))
        super().__post_init__()

    def setup(self) -> None:
        for name in self.branches:
            setattr(self, name, self.network(name))
        for main in self.branches:
            for auxiliary in self.others(main):
                setattr(self, self.link(main, auxiliary), self._transfer(getattr(self, main)))

    def network(self, name: str, **settings: Any) -> nn.Module:
        """The network of a branch."""
        if isinstance(self.family, Mapping):
            family, own = self.family[name], self.branch[name]
        else:
            family, own = self.family, self.branch
        return family(**{**own, "sets": tuple(self.sets or ()), **settings})

    def networks(self) -> list[nn.Module]:
        """The networks of all branches, as unbound modules."""
        return [self.network(name, parent=None) for name in self.branches]

    def others(self, main: str) -> list[str]:
        """The auxiliary branches of a main branch."""
        return [name for name in self.branches if name != main]

    def link(self, main: str, auxiliary: str) -> str:
        """The name of the transfer module between two branches."""
        several = len(self.branches) > 2
        return f"transfer_{main}_from_{auxiliary}" if several else f"transfer_{main}"

    def _transfer(self, main):
        dtype = getattr(main, "dtype", None)
        sets = tuple(self.sets or ())
        return Transfer(main.layer_channels, main.layer_strides, self.parity, sets, dtype)

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """The outputs of the branch named `task`, with the transfer from the others."""
        if self.is_initializing():
            every = {name: self._forward(images, train, name) for name in self.branches}
            return every[task if task in every else self.branches[0]]
        if task not in self.branches:
            raise ValueError(f"Generalist: task is {task!r}; one of {', '.join(self.branches)}")
        return self._forward(images, train, task)

    def _forward(self, images, train, task):
        main = getattr(self, task)
        helpers = {name: self._auxiliary(images, train, task, name) for name in self.others(task)}
        out, x = {}, images
        for level in range(1, len(main.layer_channels) + 1):
            x = main.level(x, level, train, task)
            if level <= LINKED_LAYERS:
                for name, maps in helpers.items():
                    link = getattr(self, self.link(task, name))
                    x = x + link(maps[:level], train, task)
            # A branch may output another map than it continues with (models/lifted.py).
            lifts = hasattr(main, "shown")
            out[f"layer{level}"] = main.shown(x, level, images.shape[1:3]) if lifts else x
        return out | {"pooled": main.pool(x, train, task)}

    def _auxiliary(self, images, train, task, name) -> list[jax.Array]:
        """The maps of an auxiliary branch up to the last linked layer, without gradient."""
        maps, x = [], images
        for level in range(1, LINKED_LAYERS + 1):
            x = getattr(self, name).level(x, level, train, task)
            maps.append(lax.stop_gradient(x))
        return maps

    @property
    def layer_strides(self) -> tuple[int, ...]:
        """Image pixels per position of layer1..layer4, which all branches share."""
        return self.networks()[0].layer_strides

    @property
    def layer_channels(self) -> tuple[int, ...]:
        """Channels of layer1..layer4 in the first branch."""
        return self.networks()[0].layer_channels

    @property
    def features(self) -> int:
        """Size of "pooled" in the first branch."""
        return self.networks()[0].features

    def parts(self) -> list[Part]:
        """The branches and the transfer modules into each."""
        links = [self.link(a, b) for a in self.branches for b in self.others(a)]
        return [Part(name, (name,)) for name in (*self.branches, *links)]
