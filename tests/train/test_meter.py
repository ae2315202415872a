"""The peaks of devices by the names that JAX gives them."""

import pytest

from intern_jax.train.progress import meter


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("TPU v4", 275),
        ("TPU v5", 459),  # a v5p
        ("TPU v5p", 459),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v6 lite", 918),
        ("TPU7x", 2307 / 2),  # two devices per chip
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", None),
        ("NVIDIA B2000", None),
        ("NVIDIA A1000", None),
        ("TPU v5x", None),
        ("cpu", None),
    ],
)
def test_a_device_s_peak_is_that_of_its_own_data_sheet(kind, tflops):
    assert meter.peak_of(kind) == (None if tflops is None else tflops * 1e12)
