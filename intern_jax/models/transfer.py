"""The generalist: experts' backbones are its branches, connected by modules that exchange their maps.

One branch is the main one of a call; the others are auxiliary. After layers t = 1, 2 and 3 of the main
branch, for each auxiliary branch: main_t += sum over s <= t of T_{s->t}(stop_gradient(aux_s)). The main
branch continues with the sum. This is the paper's Up-G, which has two branches; its code calls the
module "cross conv". No gradient reaches an auxiliary branch, which runs first and stops after layer 3.
At initialisation every module outputs 0, so the generalist's outputs equal those of its experts.
Legend: B batch, H height, W width, C channels, N branches.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from intern_jax.models import backbone as backbone_lib
from intern_jax.models.backbone import Part
from intern_jax.models.layers.basic import NARROW, WIDEN, BatchNorm, Conv, Dtype
from intern_jax.models.metanet import MetaNet

LINKED = (1, 2, 3)  # layers after which branches exchange maps
TRANSFERS = ("paths", "cross_stitch", "none")
ORDERS = ("all", "ordered")


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
    """All paths from one branch into another. `channels` and `strides` are the main branch's; strides are shared.

    `layers` are those after which maps are exchanged, in rising order.
    """

    channels: Sequence[int]
    strides: Sequence[int]
    parity: bool = False
    sets: Sequence[str] = ()
    dtype: Dtype | None = None
    layers: Sequence[int] = LINKED

    def setup(self) -> None:
        for target in self.layers:
            for source in self._sources(target):
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
        """The sum that the auxiliary maps of the first linked layers (the `sources`) add to the last one of these."""
        target = self.layers[len(sources) - 1]
        return reduce(
            jnp.add,
            (
                getattr(self, _name(target, source))(x, train, task)
                for source, x in zip(self._sources(target), sources, strict=True)
            ),
        )

    def _sources(self, target: int) -> list[int]:
        return [layer for layer in self.layers if layer <= target]


def _name(target: int, source: int) -> str:
    return f"layer{target}_from_layer{source}"


class CrossStitch(nn.Module):
    """Mixes the maps of N branches channel by channel (arXiv 1604.03539): x'_a = sum over b of share_ab x_b.

    A map keeps `own` of itself at first, and the others share the rest. The publication learns the shares at 100 to
    1,000 times the usual rate (optim.groups).
    """

    branches: int
    own: float = 0.9

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], stop: bool) -> list[jax.Array]:
        """The mixed maps [B,H,W,C]. With `stop` no gradient flows from a branch into another."""
        n, channels = self.branches, maps[0].shape[-1]
        rest = (1 - self.own) / (n - 1)
        first = jnp.full((n, n), rest) + (self.own - rest) * jnp.eye(n)
        shares = self.param(
            "shares", lambda _: jnp.broadcast_to(first[:, :, None], (n, n, channels))
        )
        mixed = []
        for a in range(n):
            parts = [
                shares[a, b].astype(x.dtype)[None, None, None]
                * (lax.stop_gradient(x) if stop and a != b else x)
                for b, x in enumerate(maps)
            ]
            mixed.append(reduce(jnp.add, parts))
        return mixed


def _late(default: Any) -> Any:
    # Keys from before there was such a setting stay as they are (pipeline/keys.py).
    return dataclasses.field(default=default, metadata={"late": True})


class Generalist(nn.Module):
    """A backbone of named branches that exchange their maps.

    The `task` of a call is a family, a kind of groups, a branch, or BRANCH/SET; `route` gives the main branch and the
    BatchNorm set. All branches are networks of class `family` (MetaNet, or another class with `level`, `pool` and
    `sets`) with the settings `branch`. Alternatively, `family` and `branch` are mappings by the branches' names.

    parity    initialise paths as the original does
    sets      the BatchNorm sets of branches and modules (None: the branches' names; empty: one set for all tasks)
    serves    {task: BRANCH or BRANCH/SET} where that is not the branch of the task's name, or of its family's
    layers    those after which maps are exchanged: at strides 4, 8 and 16
    links     "all": every branch gets maps from every other; "ordered": from those before it; or [[from, into], ...]
    transfer  "paths", the paper's; "cross_stitch", where auxiliary branches are mixed too; or "none"
    gradient  whether gradients reach auxiliary branches

    The module into branch A is named `transfer_A`; with three or more branches, `transfer_A_from_B`; those of
    cross-stitch `stitch_layerT`.
    """

    branch: Mapping[str, Any]
    parity: bool = False
    sets: Sequence[str] | None = None
    family: Callable[..., nn.Module] | Mapping[str, Callable[..., nn.Module]] = MetaNet
    branches: Sequence[str] = ("cls", "dense")
    serves: Mapping[str, str] | None = _late(None)
    layers: Sequence[int] = _late(LINKED)
    links: str | Sequence[Sequence[str]] = _late("all")
    transfer: str = _late("paths")
    gradient: bool = _late(False)

    def __post_init__(self) -> None:
        if self.sets is None:
            object.__setattr__(self, "sets", tuple(self.branches))
        super().__post_init__()

    def setup(self) -> None:
        for name in self.branches:
            setattr(self, name, self.network(name))
        for main in self.branches:
            for auxiliary in self.others(main) if self.transfer == "paths" else ():
                setattr(self, self.link(main, auxiliary), self._paths(getattr(self, main)))
        for layer in self._stitched():
            setattr(self, f"stitch_layer{layer}", CrossStitch(len(self.branches)))

    # --- its branches -----------------------------------------------------------------------------

    def network(self, name: str, **settings: Any) -> nn.Module:
        """The network of a branch."""
        if isinstance(self.family, Mapping):
            family, own = self.family[name], self.branch[name]
        else:
            family, own = self.family, self.branch
        sets = {"sets": tuple(self.sets or ())} if backbone_lib.has_sets(family) else {}
        return family(**{**own, **sets, **settings})

    def networks(self) -> list[nn.Module]:
        """The networks of all branches, as unbound modules."""
        return [self.network(name, parent=None) for name in self.branches]

    def others(self, main: str) -> list[str]:
        """The auxiliary branches of a main branch."""
        if self.transfer == "none":
            return []
        others = [name for name in self.branches if name != main]
        if self.links == "all" or self.transfer == "cross_stitch":
            return others
        if self.links == "ordered":
            return list(self.branches[: list(self.branches).index(main)])
        return [name for name in others if [name, main] in [list(pair) for pair in self.links]]

    def link(self, main: str, auxiliary: str) -> str:
        """The name of the transfer module between two branches."""
        several = len(self.branches) > 2
        return f"transfer_{main}_from_{auxiliary}" if several else f"transfer_{main}"

    def route(self, task: str) -> str:
        """The call's `task` in full: BRANCH, or BRANCH/SET where the BatchNorm set has another name.

        The set is the one named, or that of the task's name, the branch's or the family's. UserError for an unknown
        task, and for one without a set.
        """
        near, serves = backbone_lib.near_names(task), self.serves or {}
        named = next((serves[name] for name in near if name in serves), task)
        found, _, chosen = named.partition("/")
        tried = near if named == task and not chosen else (found,)
        branch = backbone_lib.first_of(tried, self.branches, "branch", found)
        if not self.sets:
            return branch
        tried = (chosen,) if chosen else (task, branch, *near[1:])
        chosen = backbone_lib.first_of(tried, self.sets, "BatchNorm set", chosen or task)
        return branch if chosen == branch else f"{branch}/{chosen}"

    def _paths(self, main: Any) -> Transfer:
        dtype = getattr(main, "dtype", None)
        sets, layers = tuple(self.sets or ()), tuple(self.layers)
        channels, strides = backbone_lib.link_channels(main), backbone_lib.link_strides(main)
        return Transfer(channels, strides, self.parity, sets, dtype, layers)

    def _stitched(self) -> Sequence[int]:
        return self.layers if self.transfer == "cross_stitch" else ()

    # --- its outputs ------------------------------------------------------------------------------

    def __call__(
        self, images: jax.Array, train: bool, task: str | None = None
    ) -> dict[str, jax.Array]:
        """The outputs of the branch that serves `task`, with what the others add."""
        if self.is_initializing():
            # BatchNorm makes all its sets, whatever the task.
            every = {name: self._forward(images, train, name, None) for name in self.branches}
            branch = str(task).partition("/")[0]
            return every[branch if branch in every else self.branches[0]]
        branch, _, chosen = self.route(str(task)).partition("/")
        return self._forward(images, train, branch, chosen or branch)

    def _forward(
        self, images: jax.Array, train: bool, main: str, chosen: str | None
    ) -> dict[str, jax.Array]:
        names = [main, *self.others(main)]
        networks = {name: getattr(self, name) for name in names}
        state = dict.fromkeys(names, images)
        history: dict[str, list[jax.Array]] = {name: [] for name in names}
        out, size = {}, images.shape[1:3]
        for level in range(1, len(networks[main].layer_channels) + 1):
            running = names if level <= max(self.layers) else [main]
            for name in running:
                state[name] = networks[name].level(state[name], level, train, chosen)
            if level in self.layers:
                maps = {n: backbone_lib.linked(networks[n], state[n], size) for n in running}
                for name in running:
                    history[name].append(maps[name])
                mixed = self._exchanged(level, main, maps, history, train, chosen)
                for name, x in mixed.items():
                    state[name] = backbone_lib.relinked(networks[name], state[name], x)
            out[f"layer{level}"] = backbone_lib.shown(networks[main], state[main], level, size)
        return out | {"pooled": networks[main].pool(state[main], train, chosen)}

    def _exchanged(
        self,
        level: int,
        main: str,
        maps: Mapping[str, jax.Array],
        history: Mapping[str, Sequence[jax.Array]],
        train: bool,
        chosen: str | None,
    ) -> dict[str, jax.Array]:
        """The maps of a level after the exchange, of the branches that it changes."""
        if self.transfer == "cross_stitch":
            stitch = getattr(self, f"stitch_layer{level}")
            mixed = stitch([maps[name] for name in self.branches], not self.gradient)
            return dict(zip(self.branches, mixed, strict=True))
        x = maps[main]
        for name in self.others(main):
            seen = history[name]
            if not self.gradient:
                seen = [lax.stop_gradient(each) for each in seen]
            x = x + getattr(self, self.link(main, name))(seen, train, chosen)
        return {main: x}

    # --- what it is -------------------------------------------------------------------------------

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
        """The branches and the modules between them."""
        paths = self.transfer == "paths"
        links = [self.link(a, b) for a in self.branches for b in self.others(a) if paths]
        links += [f"stitch_layer{layer}" for layer in self._stitched()]
        return [Part(name, (name,)) for name in (*self.branches, *links)]
