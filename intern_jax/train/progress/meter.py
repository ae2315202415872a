"""The speed of a run: images per second, the share of time that it waits for data, and MFU."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from intern_jax.core.scalars import RUN, Scalar, Scalars
from intern_jax.ops.macs import multiply_adds

RATES: Scalars = {
    "images_per_second": Scalar(RUN, "images per second", higher_is_better=True),
    "data_wait": Scalar(RUN, "time waiting for data", "%", higher_is_better=False, factor=100.0),
    "mfu": Scalar(RUN, "MFU", "%", higher_is_better=True, factor=100.0),
}
# Peak dense bfloat16 TFLOP/s of a JAX device, by the first words of its kind. NVIDIA: the data sheets of A100, H100,
# H200, L4 and HGX B200, whose figures with sparsity are halved. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,
# tpu7x}. JAX calls a v5p "TPU v5". A TPU7x chip has 2,307, and each of its two cores is a device.
PEAK_TFLOPS = {
    "NVIDIA A100": 312,
    "NVIDIA B200": 2250,
    "NVIDIA H100": 989,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H200": 989,
    "NVIDIA H200 NVL": 835,
    "NVIDIA L4": 121,
    "TPU v4": 275,
    "TPU v5": 459,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 1153.5,
}


class Meter:
    """Times a run from step `start` on: `next_batch` counts the wait for data, `rates` ends an interval.

    `blocks` is the number of different parts of a batch that processes make.
    """

    def __init__(self, start: int, devices: int, blocks: int = 1):
        self.devices, self.blocks = devices, blocks
        self.images = 0
        self.flops: float | None = None
        self._waited = 0.0
        self._since = (time.monotonic(), start)

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """The next batch; StopIteration if there is none."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        self.images = count_images(batch)
        return batch

    def restart(self, step: int) -> None:
        """Start a new interval, so that the time of compilation does not count."""
        self._since, self._waited = (time.monotonic(), step), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        before = time.monotonic()
        yield
        since, step = self._since
        self._since = (since + time.monotonic() - before, step)

    def rates(self, step: int) -> tuple[float, dict[str, float]]:
        """Steps per second since the end of the last interval, and the rates to log."""
        before, last = self._since
        seconds = max(time.monotonic() - before, 1e-9)
        per_second = (step - last) / seconds
        made = {
            "images_per_second": per_second * self.images * self.blocks,
            "data_wait": self._waited / seconds,
        }
        fastest = peak()
        if self.flops and fastest:
            made["mfu"] = self.flops * per_second / (fastest * self.devices)
        self.restart(step)
        return per_second, made

    def count_flops(self, step: jax.stages.Wrapped, arguments: tuple) -> None:
        """Count the FLOPs of a step from its trace, if the device's peak is known.

        XLA's own analysis is not used, because it counts the body of a loop once. Operations that remat repeats count
        twice.
        """
        if peak():
            try:
                self.flops = 2.0 * multiply_adds(step.trace(*arguments).jaxpr)
            except ValueError:  # a loop of unknown length
                self.flops = None


def count_images(batch: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of images in a batch, each view counted: rows of all fields named image..., or else all rows."""
    fields = [(name, value) for rows in batch.values() for name, value in rows.items()]
    images = sum(len(value) for name, value in fields if name.startswith("image"))
    return images or sum(len(next(iter(rows.values()))) for rows in batch.values())


def peak() -> float | None:
    """The peak FLOP/s of this device, or None if it is not known."""
    return peak_of(jax.devices()[0].device_kind)


def peak_of(kind: str) -> float | None:
    """The peak FLOP/s of a device kind by the longest name of PEAK_TFLOPS that it begins with, as whole words."""
    # An L40 is no L4, and an "H100 PCIe" is slower than an "H100".
    found = [name for name in PEAK_TFLOPS if re.match(rf"{re.escape(name)}(?![\w])", kind)]
    return PEAK_TFLOPS[max(found, key=len)] * 1e12 if found else None
