"""The runner on Apache Beam: the parts of engine.py, spread by a Beam runner that is always named.

Here that is FnApiRunner with processes; options name others (Dataflow, Flink, Spark). All workers see the folders under
the same paths, as on one machine or on a shared mount. A finished part is not made again. Keys travel as bytes.
"""

import functools
import io
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from intern_jax.core.config import UserError
from intern_jax.curation.running import engine
from intern_jax.curation.running.engine import Each, Merge

log = logging.getLogger(__name__)


class Beam:
    """Runs parts by Apache Beam: `make beam` builds an environment with it.

    `options` are Beam's own, such as "--runner=DataflowRunner". Without a runner among them it is FnApiRunner: in this
    process for one of `workers` (by default one per core), else in as many processes.
    """

    def __init__(self, options: Sequence[str] = (), workers: int | None = None):
        try:
            import apache_beam  # noqa: F401
        except ImportError as error:
            raise UserError(
                "runner: Apache Beam is not installed; make beam, and use .venv-beam/bin/python"
            ) from error
        self.options = list(options)
        self.workers = workers or len(os.sched_getaffinity(0))

    def run(self, job: Each | Merge, folder: pathlib.Path) -> None:
        """Make the parts that are missing. Raises UserError for the first fault; finished parts stay."""
        folder.mkdir(parents=True, exist_ok=True)
        engine.clear_unfinished(folder)
        count = job.count if isinstance(job, Each) else job.buckets
        missing = [n for n in range(count) if engine.part_counts(folder, job.name, n) is None]
        if not missing:
            return
        log.info("%s: %d parts by Apache Beam", job.name, len(missing))
        try:
            with self._pipeline() as pipeline:
                if isinstance(job, Each):
                    _each(pipeline, job, missing, folder)
                else:
                    _merge(pipeline, job, folder)
        except UserError:
            raise
        except Exception as error:
            # Beam passes an error of another process on as text.
            said = [line for line in str(error).splitlines() if "UserError: " in line]
            if said:
                raise UserError(said[-1].partition("UserError: ")[2].split(" [while")[0]) from error
            raise
        log.info("%s: %s", job.name, dict(engine.total(folder, job.name, count)))

    def _pipeline(self) -> Any:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        if any(option.startswith("--runner") for option in self.options):
            return apache_beam.Pipeline(options=PipelineOptions(self.options))
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner

        mode = "in_memory" if self.workers == 1 else "multi_processing"
        here = [f"--direct_running_mode={mode}", f"--direct_num_workers={self.workers}"]
        return apache_beam.Pipeline(
            runner=FnApiRunner(), options=PipelineOptions([*here, *self.options])
        )


def _each(pipeline: Any, job: Each, missing: Sequence[int], folder: pathlib.Path) -> None:
    import apache_beam as beam

    make = functools.partial(_make, job, str(folder))
    _ = pipeline | beam.Create(missing) | beam.Reshuffle() | beam.Map(make)


def _merge(pipeline: Any, job: Merge, folder: pathlib.Path) -> None:
    import apache_beam as beam

    _ = (
        pipeline
        | beam.Create(range(job.count))
        | beam.Reshuffle()
        | beam.FlatMap(functools.partial(_blocks, job))
        | beam.GroupByKey()
        | beam.Map(functools.partial(_gather, job, str(folder)))
    )


def _make(job: Each, folder: str, number: int) -> None:
    engine.finish_part(pathlib.Path(folder), job.name, number, functools.partial(job.make, number))


def _blocks(job: Merge, number: int) -> Iterator[tuple[bytes, bytes]]:
    """(bucket, its entries of one part). The first part has a block of every bucket, so that each makes its files."""
    entries = job.split(number)
    buckets = (entries[engine.ENTRY_KEY] % job.buckets).astype(np.int64)
    for bucket in range(job.buckets):
        rows = entries[buckets == bucket]
        if len(rows) or number == 0:
            yield bucket.to_bytes(4, "big"), _packed(rows)


def _gather(job: Merge, folder: str, group: tuple[bytes, Iterable[bytes]]) -> None:
    bucket, blocks = int.from_bytes(group[0], "big"), group[1]

    def make(room: pathlib.Path) -> engine.Counts:
        rows = np.concatenate([np.load(io.BytesIO(b), allow_pickle=False) for b in blocks])
        return job.make(bucket, engine.sort_entries(rows), room)

    engine.finish_part(pathlib.Path(folder), job.name, bucket, make)


def _packed(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows, allow_pickle=False)
    return file.getvalue()
