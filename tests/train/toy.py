"""Small stages and streams for the tests of the loop; also imported by the processes they start."""

import contextlib
import dataclasses
import pathlib
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core.averages import mean, whole
from intern_jax.train.stage import Stage

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEAK = {"learning_rate": 0.05, "weight_decay": 0.01}


def settings(**changes):
    """A loop's settings with every scalar logged."""
    return {"steps": 6, "log_every": 1, "optim": PEAK, **changes}


@dataclasses.dataclass(frozen=True)
class Segment:
    first_step: int = 0
    offset: int = 0
    seed: int = 0


class Stream:
    """Rows of a batch drawn from its own generator; `bad` batches hold a NaN, `loud` ones large targets."""

    def __init__(self, rows=8, features=3, bad=(), loud=(), until=None, segments=(Segment(),)):
        self.rows, self.features, self.until = rows, features, until
        self.bad, self.loud = set(bad), set(loud)
        self.segments = segments
        self.asked = []

    def open_segment(self, first_step, offset):
        before = [s for s in self.segments if s.first_step < first_step]
        self.segments = (*before, Segment(first_step, offset))

    def set_segments(self, segments):
        self.segments = tuple(segments)

    def faults(self):
        return {}

    def batch_at(self, step):
        segment = [s for s in self.segments if s.first_step <= step][-1]
        index = segment.offset + step - segment.first_step
        rng = np.random.default_rng(index)
        x = rng.normal(size=(self.rows, self.features)).astype(np.float32)
        y = (x.sum(1) + 0.1 * rng.normal(size=self.rows)).astype(np.float32)
        if index in self.bad:
            x[0, 0] = np.nan
        if index in self.loud:
            y = 100 * y
        return {"task": {"x": x, "y": y}}

    def iterate(self, start):
        step = start
        while self.until is None or step < self.until:
            self.asked.append(step)
            yield self.batch_at(step)
            step += 1
        raise RuntimeError("the stream broke")


class Linear(Stage):
    """y = x w + b with noise on the inputs, and a running mean of the inputs as BatchNorm keeps."""

    name = "linear"

    def __init__(self, noise=0.0, width=None, **declared):
        self.noise, self.width = noise, width
        self.traces = 0
        for field, value in declared.items():
            setattr(self, field, value)

    def init(self, key, batch):
        features = batch["task"]["x"].shape[1]
        kernel = jax.random.normal(key, (features, self.width or 1))
        head = {"kernel": kernel, "bias": jnp.zeros(self.width or 1)}
        stats = {"seen": jnp.zeros(features), "count": jnp.zeros((), jnp.int32)}
        return {
            "params": {"head": head, "scale": jnp.ones(())},
            "batch_stats": {"norm": stats},
        }

    def loss(self, context):
        self.traces += 1
        params, frozen = context.params, context.frozen
        x, y = context.batch["task"]["x"], context.batch["task"]["y"]
        x = x + self.noise * jax.random.normal(context.key, x.shape)
        out = (x @ params["head"]["kernel"]).mean(1) + params["head"]["bias"].mean()
        error = params["scale"] * out - y
        old = context.extra["batch_stats"]["norm"]
        seen = 0.9 * old["seen"] + 0.1 * x.mean(0)
        extra = {"batch_stats": {"norm": {"seen": seen, "count": old["count"] + 1}}}
        size = whole((params["head"]["kernel"] ** 2).sum())
        terms = {"square": mean(error**2), "size": size}
        if frozen:
            terms["teacher"] = mean((out - (x @ frozen["kernel"])[:, 0]) ** 2)
        return terms, (extra, {"error": mean(jnp.abs(error))})


def arrays(tree):
    """Leaves on the host, by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def assert_same(first, second):
    """Bit-equal trees of the same structure."""
    one, two = arrays(first), arrays(second)
    assert list(one) == list(two)
    for name in one:
        assert one[name].dtype == two[name].dtype, name
        assert one[name].tobytes() == two[name].tobytes(), name


@contextlib.contextmanager
def full_disk(size=300):
    """No file may grow beyond `size` bytes: what is written in the background fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
