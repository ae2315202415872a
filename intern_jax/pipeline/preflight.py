"""Trace every stage on shapes, so that mistakes that only shapes show are found before the first stage is trained.

All arrays are abstract, except one row of the stage's data. The train step is traced but not compiled.
"""

import re
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data.batches.stream import Stream
from intern_jax.pipeline import contamination
from intern_jax.pipeline import products as products_lib
from intern_jax.pipeline.building import build_stage, evaluations, spec_of
from intern_jax.train import beginning
from intern_jax.train import settings as train_settings
from intern_jax.train import state as state_lib
from intern_jax.train.programs import Programs
from intern_jax.train.stage import Stage

Products = dict[str, Any]  # {stage: the arrays that it leaves for later stages, as shapes}


def check(settings: Mapping[str, Any], name: str, mesh: jax.sharding.Mesh, known: Products) -> None:
    """Trace a stage's step and its start on shapes. A failure is a UserError with the stage's place in the config.

    `known` holds the products of stages that were traced before; the product of this stage is added.
    """
    where, entry = f"config.{name}", settings[name]
    try:
        stage, batch = abstract_stage(settings, name, known)
        evaluations(entry, stage, mesh)
        programs = Programs.build(stage, train_settings.check(entry["train"]), mesh, batch)
        jax.eval_shape(programs.step, *programs.arguments(mesh, batch, stage.frozen))
        _check_start(settings, name, stage, programs, known)
        state = programs.abstract
        known[name] = _exported({"params": state.params, **state.extra}, stage)
    except UserError as error:
        said = str(error)
        raise UserError(said if said.startswith(where) else f"{where}: {said}") from error
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(
            f"{where}: {type(error).__name__}: {line} ({frame.filename}:{frame.lineno})"
        ) from error


def abstract_stage(
    settings: Mapping[str, Any], name: str, known: Products | None = None
) -> tuple[Stage, Any]:
    """(stage of a checked config, with abstract arrays of the stages that it reads; its abstract batch)."""
    entry = settings[name]
    specs = {one: spec_of(settings, one) for one in settings["stages"]}
    sources, batch = one_row(entry["data"])
    contamination.check(settings, name, sources)
    batch = {
        group: jax.tree.map(lambda x, rows=rows: as_rows(x, rows["batch_size"]), batch[group])
        for group, rows in entry["data"].items()
    }
    stage = build_stage(entry, specs[name], sources, specs)
    stage.name = name
    frozen = {role: entry["start"][role] for role, of in stage.roles.items() if of.frozen}
    if frozen:
        known = {} if known is None else known
        products = {role: _product(settings, one, known) for role, one in frozen.items()}
        stage.frozen = {**stage.frozen, **products}
    return stage, batch


def one_row(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """(the opened sources of a stage, the first row of its batches)."""
    groups = {name: {**group, "batch_size": 1} for name, group in data.items()}
    with Stream(groups, rows=(0, 1)) as stream:
        return stream.sources, stream.batch_at(0)


def as_rows(array: np.ndarray, rows: int) -> jax.ShapeDtypeStruct:
    """The shape of `rows` rows like the one in `array`."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct((rows, *array.shape[1:]), dtype)


def _product(settings: Mapping[str, Any], name: str, known: Products) -> dict[str, Any]:
    """The arrays that a stage leaves for later stages, as shapes."""
    if name in known:
        return known[name]
    stage, batch = abstract_stage(settings, name, known)

    def init(key: jax.Array) -> Any:
        return stage.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), batch))

    key = jax.eval_shape(lambda: jax.random.key(0))
    known[name] = _exported(state_lib.unbox(jax.eval_shape(init, key)), stage)
    return known[name]


def _exported(variables: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    extra = {name: arrays for name, arrays in variables.items() if name != "params"}
    return {"params": variables["params"], **tree.partition(extra, stage.exports)[0]}


def _check_start(
    settings: Mapping[str, Any], name: str, stage: Stage, programs: Programs, known: Products
) -> None:
    """Refuse a start from which nothing is taken, one with other shapes, and a config's rule that matches nothing."""
    bound = {role: earlier for role, earlier in settings[name]["start"].items() if earlier}
    frozen = {role for role, of in stage.roles.items() if of.frozen}
    target = {"params": programs.abstract.params, **programs.abstract.extra}
    arrays = {
        f"{role}/{path}": array
        for role, earlier in bound.items()
        for path, array in tree.names(_product(settings, earlier, known)).items()
    }
    source = {path: array for path, array in arrays.items() if path.split("/")[0] not in frozen}
    source |= {path: of[0][1] for path, of in products_lib.blended(arrays, stage).items()}
    if source:
        beginning.check_start(target, source, stage)
    written = settings[name]["graft"] or {}
    for regex, _ in (*written.get("add", ()), *(written.get("replace") or ())):
        if not any(re.fullmatch(regex, path) for path in tree.names(target)):
            raise UserError(
                f"graft: {regex!r} matches none of the stage's arrays, such as "
                f"{next(iter(tree.names(target)))}"
            )
