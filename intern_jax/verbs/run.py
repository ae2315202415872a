"""`run`: a config's stages in order."""

from __future__ import annotations

import argparse
import logging

from intern_jax.processes import exits
from intern_jax.verbs import arguments

TEXT = "Run a config's stages in order; what is already done is reused."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument("--config", required=True, help=arguments.config_help("run"))
    parser.add_argument(
        "--workdir", required=True, help="folder for checkpoints, metrics and report"
    )
    parser.epilog = f"{arguments.OVERRIDES}, such as --config.seeds=1 or --config.workers=2"


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Run a config's stages."""
    from intern_jax import pipeline
    from intern_jax.benchmark.scores.table import Incomplete
    from intern_jax.processes import hosts

    config = arguments.read_config(args.config, rest, "run")
    hosts.initialize()
    if not hosts.is_main():
        logging.getLogger("intern_jax").setLevel(logging.WARNING)
    with exits.stoppable(), hosts.naming_faults(), hosts.naming_losses():
        try:
            results = pipeline.run(config, args.workdir)
        except Incomplete as incomplete:
            print(incomplete.table)
            raise
    if hosts.is_main():
        print(results["table"])
        print(f"{args.workdir}/results.json and {args.workdir}/report.html written")
