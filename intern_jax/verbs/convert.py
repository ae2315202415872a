"""`convert`: published weights in and out."""

from __future__ import annotations

import argparse

from intern_jax.verbs import arguments

TEXT = "Read PyTorch weights, or write ours in published names."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    source = "FILE.pth, FILE.safetensors or, with --to, a model folder"
    parser.add_argument("--from", required=True, dest="source", help=source)
    parser.add_argument("--model", help="the variant that the file holds, such as resnet50")
    parser.add_argument("--out", required=True, help="the model folder or, with --to, the file")
    parser.add_argument("--layout", default="auto", help="whose names the file --from has")
    parser.add_argument("--to", metavar="LAYOUT", help="write in the names of timm, ...")
    parser.add_argument("--prefix", help="what is before its names, in a file of several networks")
    parser.add_argument(
        "--weights", help="the table to take, of several: state_dict, model_ema, ..."
    )
    parser.add_argument("--task", choices=("cls", "dense"), help="the BatchNorm set --to writes")
    parser.add_argument("--classes", help="a file of names, one per line: keep the classifier too")
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="of a CLIP file's towers: OpenAI's have quick_gelu, LAION's gelu",
    )
    parser.epilog = (
        "--model.FIELD=VALUE changes a setting of the variant; --canvas=PIXELS, --resize=short (or squash, fit), "
        "--crop=SHARE, --interpolation=bicubic (or bilinear), --mean=R,G,B and --std=R,G,B tell how the model "
        "folder reads pictures; --text-heads=N is for a CLIP text tower whose heads have not 64 channels"
    )


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Convert one file."""
    from intern_jax.core.config import bind

    given = arguments.joined(rest)
    settings = [item for item in given if item.startswith("--model.") and "=" in item]
    spec = arguments.keyword_arguments([item for item in given if item not in settings])
    spec |= {
        "fn": "intern_jax.weights.published.convert:convert",
        "source": args.source,
        "out": args.out,
    }
    for name in ("layout", "to", "prefix", "weights", "task", "activation"):
        spec[name] = getattr(args, name)
    if args.model:
        changed = arguments.keyword_arguments(
            [f"--{item.removeprefix('--model.')}" for item in settings]
        )
        spec["model"] = {"name": args.model} | changed
    elif settings:
        arguments.none_left(settings)
    if args.classes:
        spec["classes"] = _lines(args.classes)
    print(bind(spec)())


def _lines(path: str) -> list[str]:
    """The lines of a text file, without blank ones."""
    from intern_jax.core.config import UserError

    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); give a text file, one name per line"
        ) from None
