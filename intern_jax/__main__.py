"""The command line: `python -m intern_jax VERB ...`. Each verb parses, then calls one function.

Everything heavy is imported inside the verbs, so that `--help` and a mistyped flag answer at once.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from intern_jax.core import exits, memory
from intern_jax.version import __version__

_CONFIG_HELP = "a config file, or the name of one that ships with the package (quickstart)"


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line, as everywhere else in the package."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; try: {self.prog} --help\n")


def program() -> NoReturn:
    """What the shell starts: `main` in a process with huge pages, where they can be had.

    The installed script finds modules in the working directory, as `python -m intern_jax` does.
    """
    memory.restart_with_huge_pages()
    if "" not in sys.path:
        sys.path.insert(0, "")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code, of those that core/exits.py lists."""
    args, rest = _build_parser().parse_known_args(argv)
    if args.verb is _run:
        return exits.supervised(lambda: _answer(args, rest))
    return _answer(args, rest)


def _answer(args: argparse.Namespace, rest: list[str]) -> int:
    known_error = _prepare_process()
    try:
        args.verb(args, rest)
    except known_error as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_MISTAKE
    except exits.PeerLost as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.EXIT_PEER_LOST
    except exits.Stopped as stop:
        print(stop, file=sys.stderr)
        return exits.EXIT_STOPPED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        return 130
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m intern_jax", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, function: Callable[..., None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(verb=function)
        return sub

    run = verb("run", _run, "Run a config's stages in order; what is already done is reused.")
    run.add_argument("--config", required=True, help=_CONFIG_HELP)
    run.add_argument("--workdir", required=True, help="folder for checkpoints, metrics and report")
    run.epilog = "--config.FIELD=VALUE changes one field, such as --config.workers=2"

    adapt = verb("adapt", _adapt, "Learn your own task from few labels; writes a model folder.")
    adapt.add_argument("--data", required=True, help="a folder with one folder of images a class")
    adapt.add_argument("--init", help="a model folder or a zoo name to start from (default: ours)")
    adapt.add_argument("--out", required=True, help="the model folder to write")
    adapt.add_argument("--method", choices=("probe", "finetune"), default="probe")
    adapt.epilog = "--NAME=VALUE sets any other argument of the method, such as --steps=200"

    benchmark = verb("benchmark", _benchmark, "GV-B: score a frozen backbone on its 26 data sets.")
    benchmark.add_argument("--config", default="gvb", help=f"{_CONFIG_HELP} (default: gvb)")
    benchmark.add_argument("--data", help="the folder of the data sets (default: data)")
    benchmark.add_argument("--init", help="a model folder or a zoo name (default: ours)")
    benchmark.add_argument(
        "--backbone", metavar="PACKAGE.MODULE:FUNCTION", help="your own: what it returns is scored"
    )
    benchmark.add_argument(
        "--boxes", metavar="ROW=FILE", action="append", help="score a detector's boxes"
    )
    benchmark.add_argument("--workdir", action="append", help="folder for records and features")
    modes = benchmark.add_mutually_exclusive_group()
    modes.add_argument(
        "--list", action="store_true", help="the data sets, what is there, how to get the rest"
    )
    modes.add_argument(
        "--table", action="store_true", help="only the table; --workdir may be given several times"
    )
    benchmark.epilog = (
        "--config.FIELD=VALUE changes one field, such as --config.fractions=(0.01,0.1)"
    )

    inspect = verb("inspect", _inspect, "Say what a model, config or checkpoint holds.")
    what = inspect.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a variant's name (mn_b4, embedded, ...) or a model folder")
    what.add_argument("--config", help=_CONFIG_HELP)
    what.add_argument("--checkpoint", help="a checkpoint folder, one step of it, or a model folder")
    inspect.add_argument(
        "--topology", help="with --config: compile a stage for such TPU chips, as v5e:16x16"
    )
    inspect.add_argument(
        "--stage", help="with --topology: the stage to compile (default: the last)"
    )

    convert = verb("convert", _convert, "Read PyTorch weights, or write ours in published names.")
    source = "FILE.pth, FILE.safetensors or, with --to, a model folder"
    convert.add_argument("--from", required=True, dest="source", help=source)
    convert.add_argument("--model", help="the variant that the file holds, such as resnet50")
    convert.add_argument("--out", required=True, help="the model folder or, with --to, the file")
    convert.add_argument("--layout", default="auto", help="whose names the file has")
    convert.add_argument("--to", metavar="LAYOUT", help="write in the names of timm, ...")
    convert.add_argument("--prefix", help="what is before its names, in a file of several networks")
    convert.add_argument("--task", choices=("cls", "dense"), help="the BatchNorm set --to writes")
    convert.add_argument("--classes", help="a file of names, one a line: keep the classifier too")
    convert.epilog = (
        "--model.FIELD=VALUE changes a setting of the variant; --canvas=PIXELS, --mean=R,G,B and "
        "--std=R,G,B tell what pictures it reads"
    )
    return parser


def _prepare_process() -> type[Exception]:
    """Sets up what the libraries expect of a program; returns the exception of a user's mistake."""
    from absl import flags
    from absl import logging as absl_logging

    from intern_jax.core.config import UserError

    # Grain reads its flags even where absl did not start the program.
    flags.FLAGS.mark_as_parsed()
    # Orbax logs pages of traceback for a save that failed; the loop tells it in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("intern_jax")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return UserError


def _run(args: argparse.Namespace, rest: list[str]) -> None:
    from intern_jax import pipeline
    from intern_jax.core import config as config_lib
    from intern_jax.core import hosts

    overrides = _config_overrides(rest)
    config = config_lib.load_config(args.config)
    config_lib.override(config, overrides, new=True)
    hosts.initialize()
    if not hosts.is_main():
        logging.getLogger("intern_jax").setLevel(logging.WARNING)
    with exits.stoppable(), hosts.naming_losses():
        results = pipeline.run(config, args.workdir)
    if hosts.is_main():
        print(results["table"])
        print(f"{args.workdir}/results.json and {args.workdir}/report.html written")


def _adapt(args: argparse.Namespace, rest: list[str]) -> None:
    from intern_jax.core.config import bind

    spec = _keyword_arguments(rest) | {"fn": "intern_jax.adapt.folder:adapt_folder"}
    spec |= {"data": args.data, "init": args.init, "out": args.out, "method": args.method}
    for name, value in bind(spec)().items():
        if isinstance(value, int | float | str):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _benchmark(args: argparse.Namespace, rest: list[str]) -> None:
    from intern_jax.core import config as config_lib
    from intern_jax.core.config import UserError

    config = config_lib.load_config(args.config)
    config_lib.override(config, _config_overrides(rest), new=True)
    if args.data:
        config.data = args.data
    if args.list:
        from intern_jax.benchmark import suite

        print(suite.listing(config.rows or [row.name for row in suite.gvb.ROWS], config.data))
        return
    if not args.workdir:
        raise UserError("command line: --workdir is missing; name the folder of the records")
    from intern_jax import evaluate

    if args.table:
        print(evaluate.tables(args.workdir))
    elif len(args.workdir) > 1:
        raise UserError("command line: several --workdir; only --table reads more than one")
    elif args.boxes:
        print(evaluate.score_boxes(config, args.workdir[0], args.boxes))
    else:
        with exits.stoppable():
            print(evaluate.evaluate(config, args.workdir[0], args.init, args.backbone))


def _inspect(args: argparse.Namespace, rest: list[str]) -> None:
    overrides = _config_overrides(rest) if args.config else _none_left(rest)
    if args.topology or args.stage:
        _inspect_topology(args, overrides)
        return
    from intern_jax import describe

    if args.config:
        print(describe.describe_config(args.config, overrides))
    elif args.model:
        print(describe.describe_model(args.model))
    else:
        print(describe.describe_checkpoint(args.checkpoint))


def _inspect_topology(args: argparse.Namespace, overrides: list[str]) -> None:
    if not (args.config and args.topology):
        from intern_jax.core.config import UserError

        raise UserError("command line: --topology needs --config, and --stage needs --topology")
    # The TPU is compiled for, not asked for.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from intern_jax.topology import compile as topology

    print(topology.inspect(args.config, overrides, args.topology, args.stage))


def _convert(args: argparse.Namespace, rest: list[str]) -> None:
    from intern_jax.core.config import bind

    settings = [item for item in rest if item.startswith("--model.") and "=" in item]
    spec = _keyword_arguments([item for item in rest if item not in settings])
    spec |= {"fn": "intern_jax.weights.convert:convert", "source": args.source, "out": args.out}
    for name in ("layout", "to", "prefix", "task"):
        spec[name] = getattr(args, name)
    if args.model:
        changed = _keyword_arguments([f"--{item.removeprefix('--model.')}" for item in settings])
        spec["model"] = {"name": args.model} | changed
    elif settings:
        _none_left(settings)
    if args.classes:
        spec["classes"] = _lines(args.classes)
    print(bind(spec)())


def _lines(path: str) -> list[str]:
    """The lines of a text file, without blank ones."""
    from intern_jax.core.config import UserError

    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give a text file, one name a line"
        ) from None


def _config_overrides(rest: list[str]) -> list[str]:
    """`--config.a.b=1` -> `a.b=1`; anything else is a mistake."""
    overrides = [item for item in rest if item.startswith("--config.") and "=" in item]
    _none_left([item for item in rest if item not in overrides])
    return [item.removeprefix("--config.") for item in overrides]


def _keyword_arguments(rest: list[str]) -> dict[str, Any]:
    """`--batch-size=8` -> `{"batch_size": 8}`; values are Python literals, or else strings."""
    given = [item for item in rest if item.startswith("--") and "=" in item]
    _none_left([item for item in rest if item not in given])
    arguments = {}
    for item in given:
        name, value = item[2:].split("=", 1)
        try:
            arguments[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name.replace("-", "_")] = value
    return arguments


def _none_left(rest: list[str]) -> list[str]:
    if rest:
        from intern_jax.core.config import UserError

        raise UserError(f"command line: do not know {rest[0]!r}; write --NAME=VALUE, see --help")
    return []


if __name__ == "__main__":
    program()
