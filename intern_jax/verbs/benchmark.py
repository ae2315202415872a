"""`benchmark`: GV-B on one backbone."""

from __future__ import annotations

import argparse

from intern_jax.processes import exits
from intern_jax.verbs import arguments

TEXT = "GV-B: score a frozen backbone on its 26 data sets."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "--config", default="gvb", help=f"{arguments.config_help('benchmark')} (default: gvb)"
    )
    parser.add_argument("--data", help="the folder of the data sets (default: data)")
    parser.add_argument("--init", help="a model folder or a zoo name (default: ours)")
    parser.add_argument(
        "--backbone", metavar="PACKAGE.MODULE:FUNCTION", help="your own: what it returns is scored"
    )
    parser.add_argument(
        "--boxes", metavar="ROW=FILE", action="append", help="score a detector's boxes"
    )
    parser.add_argument("--workdir", action="append", help="folder for records and features")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--list", action="store_true", help="the data sets, what is there, how to get the rest"
    )
    modes.add_argument(
        "--table", action="store_true", help="only the table; --workdir may be given several times"
    )
    modes.add_argument(
        "--words",
        metavar="SET",
        help="zero-shot: classes are only named, by the prompts 1, 7, 80 or name; --init has a text tower",
    )
    modes.add_argument(
        "--pairs",
        metavar="DATA",
        help="retrieval between pictures and their texts: a folder or file of pairs; --init has a text tower",
    )
    parser.epilog = (
        f"{arguments.OVERRIDES}, such as --config.fractions=0.01,0.1 or --config.rows=pets"
    )


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Score rows, list them, or print the table."""
    from intern_jax.core.config import UserError

    config = arguments.read_config(args.config, rest, "benchmark")
    if args.data:
        config.data = args.data
    if args.list:
        from intern_jax.benchmark.rows import suite

        print(suite.listing(config.rows or [row.name for row in suite.gvb.ROWS], config.data))
        return
    if args.words:
        from intern_jax.benchmark import named

        print(named.score(config, args.init, args.words, (args.workdir or [None])[0]))
        return
    if args.pairs:
        from intern_jax.benchmark import named

        print(named.retrieve(args.pairs, args.init, (args.workdir or [None])[0]))
        return
    if not args.workdir:
        raise UserError("command line: --workdir is missing; name the folder of the records")
    from intern_jax.benchmark import evaluation
    from intern_jax.benchmark.scores.table import Incomplete
    from intern_jax.processes import hosts

    if args.table:
        print(evaluation.tables(args.workdir))
    elif len(args.workdir) > 1:
        raise UserError("command line: several --workdir; only --table reads more than one")
    elif args.boxes:
        print(evaluation.score_boxes(config, args.workdir[0], args.boxes))
    else:
        with exits.stoppable(), hosts.naming_faults():
            try:
                print(evaluation.evaluate(config, args.workdir[0], args.init, args.backbone))
            except Incomplete as incomplete:
                if incomplete.table:
                    print(incomplete.table)
                raise
