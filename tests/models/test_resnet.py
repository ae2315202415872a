"""ResNet against its definition in numpy, under torchvision's names."""

import functools

import jax
import numpy as np
import pytest
from metanet_fixture import flat, quick_jit, random_variables

from intern_jax.models.resnet import BottleneckBlock, ResNet

NETS = {
    "basic": ResNet(block="basic", repeats=(2, 1, 1, 2), width=4),
    "bottleneck": ResNet(block="bottleneck", repeats=(1, 2, 1, 1), width=4),
}


class Torch:
    """The network as torchvision defines it: NCHW, OIHW, layers found by their names there."""

    def __init__(self, arrays):
        self.arrays = arrays

    def kernel(self, name):
        value = self.arrays[f"params/{name}/kernel"]
        value = value if value.ndim == 4 else value[None, None]
        return value.transpose(3, 2, 0, 1)

    def conv(self, name, x, stride=1):
        kernel = self.kernel(name)
        side = kernel.shape[-1]
        windows = _windows(x, side, stride, side // 2, 0.0)
        return np.einsum("bchwij,ocij->bohw", windows, kernel)

    def norm(self, name, x):
        scale, bias = (self.arrays[f"params/{name}/{leaf}"] for leaf in ("scale", "bias"))
        mean, var = (self.arrays[f"batch_stats/{name}/{leaf}"] for leaf in ("mean", "var"))
        scale, bias, mean, var = (a[:, None, None] for a in (scale, bias, mean, var))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def basic(self, name, x, stride):
        y = relu(self.norm(f"{name}/norm_1", self.conv(f"{name}/conv_1", x, stride)))
        y = self.norm(f"{name}/norm_2", self.conv(f"{name}/conv_2", y))
        return relu(y + self.shortcut(name, x, stride))

    def bottleneck(self, name, x, stride):
        y = relu(self.norm(f"{name}/norm_1", self.conv(f"{name}/conv_1", x)))
        y = relu(self.norm(f"{name}/norm_2", self.conv(f"{name}/conv_2", y, stride)))
        y = self.norm(f"{name}/norm_3", self.conv(f"{name}/conv_3", y))
        return relu(y + self.shortcut(name, x, stride))

    def shortcut(self, name, x, stride):
        if f"params/{name}/shortcut_conv/kernel" not in self.arrays:
            return x
        return self.norm(f"{name}/shortcut_norm", self.conv(f"{name}/shortcut_conv", x, stride))

    def __call__(self, x, block, repeats):
        x = relu(self.norm("stem_norm", self.conv("stem_conv", x, 2)))
        x = _windows(x, 3, 2, 1, -np.inf).max(axis=(-1, -2))
        out = {}
        for layer, count in enumerate(repeats, start=1):
            for index in range(count):
                stride = 2 if layer > 1 and index == 0 else 1
                x = getattr(self, block)(f"layer{layer}_{index}", x, stride)
            out[f"layer{layer}"] = x.transpose(0, 2, 3, 1)
        return out | {"pooled": x.mean(axis=(2, 3))}


def relu(x):
    return np.maximum(x, 0.0)


def _windows(x, side, stride, pad, fill):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))
    return views[:, :, ::stride, ::stride]


@pytest.mark.parametrize("block", NETS)
def test_equals_the_definition(block):
    image = np.random.default_rng(1).normal(size=(2, 45, 64, 3))
    net = NETS[block]
    with jax.enable_x64(True):
        tree = random_variables(net, image)
        ours = quick_jit(lambda v, x: net.apply(v, x, train=False))(tree, image)
        reference = Torch(flat(tree))(image.transpose(0, 3, 1, 2), block, net.repeats)
        assert ours.keys() == reference.keys()
        for name, value in reference.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_block_starts_as_its_shortcut_and_kernels_as_he_proposed():
    block, x = BottleneckBlock(width=64, stride=2), np.zeros((1, 4, 4, 32), np.float32)
    init = quick_jit(functools.partial(block.init, train=False))
    arrays = flat(init(jax.random.key(0, impl="rbg"), x)["params"])
    for name, value in arrays.items():
        if name.endswith("scale"):
            assert np.all(value == (0 if name == "norm_3/scale" else 1)), name
        elif name.endswith("kernel"):
            fan_out = np.prod(value.shape[:-2]) * value.shape[-1]
            assert np.std(value) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
