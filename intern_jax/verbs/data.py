"""`data`: make a pre-training set of what you have."""

from __future__ import annotations

import argparse
from typing import Any

from intern_jax.verbs import arguments

TEXT = "Make a pre-training set of what you have: pack, look, filter, leave out duplicates and test pictures."
CURATION = "intern_jax.curation"
# {verb: (function, what it does, what it reads, further flags as text)}
STEPS = {
    "pack": (
        f"{CURATION}.pack:pack",
        "any data into a pool: ArrayRecord files with words, licences and facts",
        "--side=64 --quality=90 --per-part=5000 --licence=CC0-1.0 --author=NAME --name=NAME; of the data --kind=...",
    ),
    "report": (
        f"{CURATION}.report:write_report",
        "one HTML page of what a pool holds",
        "--sheet=200",
    ),
    "filter": (
        f"{CURATION}.filters:filter_pool",
        "an index of the records that rules keep",
        "--licences=\"('MIT','CC0-1.0')\" --without=\"('blank','dark')\" --min-side=32 --max-aspect=3 --min-words=2"
        " --drop=LIST.txt --scores=FILE.csv --min-score=0.3",
    ),
    "dedup": (
        f"{CURATION}.duplicates:drop_duplicates",
        "an index without duplicates: exact, near, and by meaning",
        "--near=True --mirrored=True --semantic=MODEL --epsilon=0.05 --prefer=\"('noto','twemoji')\"",
    ),
    "agreement": (
        f"{CURATION}.agreement:filter_by_agreement",
        "an index of the pairs whose text fits the picture, as a model with a text tower judges",
        "--model=MODEL --keep=0.7",
    ),
    "decontaminate": (
        f"{CURATION}.decontaminate:decontaminate",
        "an index without the test pictures of benchmark rows, and without concepts that are to stay unseen",
        "--rows=\"('fashion','clipart_leaf')\" --concepts=\"('cat','umbrella')\" --wordnet=FOLDER",
    ),
    "card": (
        f"{CURATION}.card:write_card",
        "CARD.md: whose the records are, what was left out, what they may be scored on",
        "--about='What it is, in a sentence.'",
    ),
    "tokenizer": (
        f"{CURATION}.tokenizer:train_tokenizer",
        "a tokenizer of the texts that an index keeps",
        "--size=4096",
    ),
}
# Steps of one process.
ALONE = ("report", "card", "tokenizer")
# Steps that also take data which is no pool yet.
FROM_DATA = ("report", "tokenizer")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb: one verb per step, and `run` for the steps of a config."""
    verbs = parser.add_subparsers(required=True, metavar="STEP", dest="step")
    for name, (_, does, more) in STEPS.items():
        step = verbs.add_parser(name, help=does, description=does, allow_abbrev=False)
        if name == "pack":
            step.add_argument("--data", required=True, help="a folder or file, as `adapt` takes it")
        else:
            either = step.add_mutually_exclusive_group(required=True)
            either.add_argument("--pool", help="the folder of a pool")
            if name in FROM_DATA:
                either.add_argument("--data", help="any data: it is packed into OUT/pool first")
            step.add_argument("--index", help="the folder of an index: the records that it keeps")
        step.add_argument("--out", required=True, help="the folder or file to write")
        if name not in ALONE:
            _add_runner(step)
        step.epilog = f"--NAME=VALUE sets more: {more}"
    does = "All steps of a config."
    run = verbs.add_parser(
        "run", help="all steps of a config", description=does, allow_abbrev=False
    )
    run.add_argument("--config", required=True, help=arguments.config_help("data run"))
    run.add_argument("--workdir", required=True, help="the folder of the steps' folders")
    run.epilog = f"{arguments.OVERRIDES}, such as --config.seed=1"
    _add_runner(run)


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--runner", choices=("local", "beam"), default="local")
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        default="",
        help="options of Apache Beam, such as --beam='--runner=DataflowRunner ...'",
    )


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Run one step, or the steps of a config. A full disk is one line, wherever it shows."""
    import pathlib

    from intern_jax.curation.running import engine

    try:
        _main(args, rest)
    except OSError as error:
        if error.errno in engine.FULL:
            raise engine.no_room(pathlib.Path(getattr(args, "out", "") or args.workdir)) from error
        raise


def _main(args: argparse.Namespace, rest: list[str]) -> None:
    from intern_jax.core.config import bind

    if args.step == "run":
        from intern_jax.curation import pipeline

        config = arguments.read_config(args.config, rest, "data run")
        pipeline.run(config, args.workdir, _runner(args))
        return
    spec: dict[str, Any] = arguments.keyword_arguments(rest) | {"out": args.out}
    if args.step == "pack":
        spec = _with_source(spec, args.data)
    else:
        spec |= {"pool": args.pool or _packed(args), "index": args.index}
    if args.step == "decontaminate":
        spec = _with_rows(spec)
    more = {} if args.step in ALONE else {"runner": _runner(args)}
    _check_given(args.step, spec | more)
    made = bind({"fn": STEPS[args.step][0], **spec})(**more)
    print(_told(made))


def _check_given(step: str, given: dict[str, Any]) -> None:
    """Refuse a step without a setting that it must have, before any work."""
    from intern_jax.core.config import UserError, parameters, resolve

    for name, parameter in parameters(resolve(STEPS[step][0])).items():
        if parameter.default is parameter.empty and name not in given:
            raise UserError(f"command line: --{name} is missing; see data {step} --help")


def _runner(args: argparse.Namespace) -> Any:
    if args.runner == "beam":
        from intern_jax.curation.running.beam import Beam

        return Beam(args.beam.split(), args.workers)
    from intern_jax.curation.running.engine import Local

    return Local(args.workers)


def _packed(args: argparse.Namespace) -> str:
    """The pool of the data that a step is given, beside what the step writes."""
    import pathlib

    from intern_jax.core.config import bind

    out = pathlib.Path(args.out)
    pool = str((out.parent if out.suffix else out) / "pool")
    bind({"fn": STEPS["pack"][0], **_with_source({"out": pool}, args.data)})()
    return pool


def _with_source(spec: dict[str, Any], data: str) -> dict[str, Any]:
    """The arguments of `pack`; those that it has not are of the opener."""
    import inspect

    from intern_jax.curation.pack import pack

    own = inspect.signature(pack).parameters
    opener = {name: spec.pop(name) for name in list(spec) if name not in own}
    return spec | {
        "source": {"fn": "intern_jax.data.open.opening:open_data", "data": data, **opener}
    }


def _with_rows(spec: dict[str, Any]) -> dict[str, Any]:
    """Benchmark rows by name as the sources of their test pictures."""
    from intern_jax.benchmark.rows import suite

    names = spec.get("rows", ())
    if isinstance(names, str):
        names = (names,)
    return spec | {
        "rows": {name: {**suite.find(name, "rows").source, "split": "test"} for name in names}
    }


def _told(made: Any) -> str:
    from intern_jax.data.sources.pool import Index, Pool

    if isinstance(made, Pool):
        counts = made.manifest["counts"]
        return f"{made.folder}: {len(made):,} records; " + _counts(counts, "records")
    if isinstance(made, Index):
        kept = made.content["counts"]
        return f"{made.folder}: {kept['kept']:,} of {len(made.causes):,} are kept; " + _counts(
            kept, "kept"
        )
    return str(made)


def _counts(counts: dict[str, int], without: str) -> str:
    return ", ".join(f"{k} {v:,}" for k, v in counts.items() if v and k != without)
