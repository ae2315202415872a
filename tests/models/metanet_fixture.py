"""Reading a PyTorch fixture of a MetaNet as our variables, and comparing with it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from compiling import QUICK
from flax import traverse_util
from flax.core import meta
from torch_state import our_layout, to_ours

from intern_jax.models.layers import basic

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"

B4_TINY = {
    "operators": ("mbconv",) * 4 + ("sa",) * 2,
    "repeats": (1, 2, 2, 1, 2, 2),
    "channels": (16, 24, 32, 48, 48, 96),
    "expansions": (1, 4, 6, 3, 2, 5),
    "strides": (1, 2, 2, 2, 1, 2),
    "stem": 16,
    "head_dim": 24,
}
B15_TINY = B4_TINY | {
    "operators": ("fused",) * 2 + ("mbconv",) * 2 + ("xca",) * 2,
    "repeats": (2, 2, 2, 1, 2, 2),
    "stem": 12,
    "head_dim": 16,
}

quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def nhwc(array: np.ndarray) -> np.ndarray:
    """Channels last, for maps; anything else as it is."""
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def flat(tree) -> dict[str, jax.Array]:
    return traverse_util.flatten_dict(meta.unbox(tree), sep="/")


def shapes(net, image, **kwargs) -> dict[str, tuple[int, ...]]:
    """Flat {path: shape} of everything that initialisation makes."""
    init = functools.partial(net.init, train=False, **kwargs)
    return {k: v.shape for k, v in flat(jax.eval_shape(init, jax.random.key(0), image)).items()}


def variables(data, names: dict[str, str], target: dict[str, tuple], dtype) -> dict:
    """The fixture's parameters as our tree; fails unless they are all of ours."""
    assert set(names.values()) == set(target)
    arrays = to_ours({k: data[f"param/{k}"] for k in names}, names, target)
    tree = traverse_util.unflatten_dict(arrays, sep="/")
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def close(ours, reference, share: float, what: str, atol: float = np.inf) -> None:
    """Differences within `share` of the array's largest value, and within `atol`."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference)
    assert ours.shape == reference.shape, what
    worst = np.abs(ours - reference).max()
    assert worst <= share * np.abs(reference).max(), (what, worst, np.abs(reference).max())
    assert worst <= atol, (what, worst)


def stored_gradients(data, names, gradient, suffix: str = "") -> dict[str, jax.Array]:
    """{published name: our gradient} of the parameters whose gradients the fixture holds."""
    ours, prefix = flat(gradient), f"grad_eval{suffix}/param/"
    wanted = [k.removeprefix(prefix) for k in data.files if k.startswith(prefix)]
    assert wanted
    return {name: ours[names[name].removeprefix("params/")] for name in wanted}


def close_gradients(data, prefix: str, gradients, image_gradient, share: float) -> None:
    """Compare `stored_gradients` and the image's with those under `prefix`."""
    for name, ours in gradients.items():
        reference = our_layout(data[f"{prefix}/param/{name}"], ours.shape)
        close(ours, reference, share, f"{prefix} {name}")
    close(image_gradient, nhwc(data[f"{prefix}/input"]), share, f"{prefix} image")


@jax.custom_vjp
def _torch_hard_sigmoid(x):
    return jax.nn.relu6(x + 3.0) / 6.0


def _forward(x):
    return _torch_hard_sigmoid(x), x


def _backward(x, grad):
    return (
        jnp.where(jnp.abs(x) < 3.0, grad * np.float64(np.float32(1 / 6)), jnp.zeros_like(grad)),
    )


_torch_hard_sigmoid.defvjp(_forward, _backward)


def as_torch_differentiates(monkeypatch) -> None:
    """PyTorch multiplies hard-sigmoid gradients by float32(1/6), in float64 too: 3e-8 off."""
    monkeypatch.setattr(basic, "hard_sigmoid", _torch_hard_sigmoid)


def random_variables(net, image, seed: int = 0) -> dict:
    """float64 arrays for every variable: variances positive, everything else around 0."""
    rng = np.random.default_rng(seed)
    init = functools.partial(net.init, train=False)
    target = meta.unbox(jax.eval_shape(init, jax.random.key(0), image))

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape) / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        return np.abs(value) + 0.5 if getattr(path[-1], "key", "") == "var" else value

    return jax.tree_util.tree_map_with_path(draw, target)
