"""`inspect`: a model, a config or a checkpoint as text."""

from __future__ import annotations

import argparse
import os

from intern_jax.verbs import arguments

TEXT = "Say what a model, config or checkpoint holds."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a variant's name (mn_b4, embedded, ...) or a model folder")
    what.add_argument("--config", help=arguments.config_help("run"))
    what.add_argument("--checkpoint", help="a checkpoint folder, one step of it, or a model folder")
    parser.add_argument(
        "--topology", help="with --config: compile a stage for such TPU chips, as v5e:16x16"
    )
    parser.add_argument("--stage", help="with --topology: the stage to compile (default: the last)")


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Print what is asked for."""
    overrides = arguments.config_overrides(rest) if args.config else arguments.none_left(rest)
    if args.topology or args.stage:
        _topology(args, overrides)
        return
    from intern_jax.pipeline import describe

    if args.config:
        print(describe.describe_config(args.config, overrides))
    elif args.model:
        print(describe.describe_model(args.model))
    else:
        print(describe.describe_checkpoint(args.checkpoint))


def _topology(args: argparse.Namespace, overrides: list[str]) -> None:
    if not (args.config and args.topology):
        from intern_jax.core.config import UserError

        raise UserError("command line: --topology needs --config, and --stage needs --topology")
    # The TPU is compiled for, not asked for.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from intern_jax.topology import compile as topology

    print(topology.inspect(args.config, overrides, args.topology, args.stage))
