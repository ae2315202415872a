"""Whether a stage may be scored on the rows of its run: sources that have a manifest must have been compared with them.

A source has a manifest if it has `decontaminated() -> {row: {"digest", ...}}` (data/sources/pool.py). The digest is the
fingerprint of the test pictures that it was compared with. Test pictures with `held_out`, names of concepts, must be
unseen: `unseen() -> [names]` of the source lists them. Sources without a manifest are not checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from intern_jax.benchmark.rows import suite
from intern_jax.core.config import UserError
from intern_jax.data.schema.fingerprints import fingerprint

REMEDY = "run `data decontaminate` with this row, or name it in benchmark.contaminated"


def check(settings: Mapping[str, Any], stage: str, sources: Mapping[str, Sequence[Any]]) -> None:
    """Refuse the sources {group: sources} of a stage that were not compared with a row of the benchmark."""
    benchmark = settings.get("benchmark")
    if not benchmark:
        return
    held = [
        (f"config.{stage}.data.{group}.sources[{i}]", inner)
        for group, several in sources.items()
        for i, source in enumerate(several)
        if (inner := _with_manifest(source)) is not None
    ]
    if not held:
        return
    for name in benchmark["rows"]:
        if name in benchmark["contaminated"]:
            continue
        row = suite.find(name)
        try:
            test = row.load("test", benchmark["data"])
        except UserError:
            continue  # its data is missing, which the benchmark tells
        digest, unseen = fingerprint(test), getattr(test, "held_out", ())
        for where, source in held:
            _check_row(where, source, row.name, digest, unseen)


def _with_manifest(source: Any) -> Any:
    """The source, or the one inside it, that has a manifest."""
    while source is not None and not hasattr(source, "decontaminated"):
        source = getattr(source, "source", None) or getattr(source, "cutouts", None)
    return source


def _check_row(where: str, source: Any, row: str, digest: str, unseen: Sequence[str]) -> None:
    name = getattr(source, "name", type(source).__name__)
    found = source.decontaminated().get(row)
    if found is None:
        raise UserError(
            f"{where}: {name} was not compared with the test pictures of '{row}'; {REMEDY}"
        )
    if found["digest"] != digest:
        raise UserError(
            f"{where}: {name} was compared with other test pictures of '{row}'; {REMEDY}"
        )
    seen = sorted(set(unseen) - set(source.unseen())) if unseen else []
    if seen:
        raise UserError(
            f"{where}: {name} may hold '{seen[0]}', which '{row}' calls unseen; hold it out with"
            " `data decontaminate --concepts`"
        )
