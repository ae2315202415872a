"""`adapt`: a task of the user's own."""

from __future__ import annotations

import argparse

from intern_jax.verbs import arguments

TEXT = "Learn your own task from few labels; writes a model folder."
# {of what: {setting: (its default, how its value is written, what it is)}}; None: what the text says.
KNOBS: dict[str, dict[str, tuple[object, str, str]]] = {
    "of both methods": {
        "canvas": (None, "PIXELS", "the side of the pictures (default: that of the start)"),
        "folds": (5, "N", "parts of the labels; each is scored by a model of the others"),
        "seed": (0, "N", "of parts, of fresh weights and of training"),
        "backbone": (None, "MODULE:NET", "the network of a start that is its author's own"),
        "kind": (
            None,
            "KIND",
            "what --data is, where it may be read in two ways: folders, captions, webdataset, parquet, tfds, coco, "
            "voc, yolo, ...",
        ),
        "split": (
            None,
            "SPLIT",
            "the part to learn from, as train+val; none: folders called like splits are classes (default: all but "
            "test, or else val, which is scored)",
        ),
        "level": (None, "N", "how deep class folders lie, where they lie in folders: 1 or 2"),
    },
    "of probe, with labels": {
        "l2": (
            None,
            "L2,...",
            "penalties to choose from, such as --l2=0.01,0.1 (default: 13 from 0.0001 to 100)",
        ),
        "readout": (
            None,
            "READOUT",
            "what is read of the backbone: FORM, FORM:BRANCH+BRANCH or FORM:BRANCH+BRANCH@MAP+MAP, FORM one of "
            "pooled, layers and grids, such as pooled:cls+dense or layers@layer4+pooled; inspect --model=INIT prints "
            "what each costs (default: grids)",
        ),
    },
    "of finetune, and of both methods with boxes": {
        "steps": (400, "N", "of training"),
        "batch_size": (None, "N", "pictures per step (default: 64, with boxes 16)"),
        "learning_rate": (1e-3, "RATE", "its peak"),
        "flip": (True, "BOOL", "whether half of the pictures are mirrored"),
    },
    "with boxes": {
        "head": (None, "NAME", "of the detector: fcos or faster_rcnn (default: fcos)"),
        "head_settings": (
            None,
            "DICT",
            "its fields, such as --head-settings=\"{'width': 64}\" (default: none)",
        ),
    },
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.add_argument(
        "--data",
        required=True,
        help="labelled images: a folder with one folder per class, or with folders train, val and test of such; a "
        "table (.csv .tsv .jsonl) or folder with one, .tar shards (WebDataset), .parquet files, or tfds:NAME; or "
        "images with boxes: a COCO .json, or a folder of VOC, YOLO, Open Images, WIDER FACE or CityPersons",
    )
    parser.add_argument("--init", help="a model folder or a zoo name to start from (default: ours)")
    parser.add_argument("--out", required=True, help="the model folder to write")
    parser.add_argument(
        "--method",
        choices=("probe", "finetune"),
        default="probe",
        help="probe: a head on the backbone as it is; finetune: all weights (default: probe)",
    )
    for title, knobs in KNOBS.items():
        group = parser.add_argument_group(title)
        for name, (default, form, text) in knobs.items():
            group.add_argument(
                f"--{name.replace('_', '-')}",
                metavar=form,
                type=arguments.literal,
                default=argparse.SUPPRESS,
                help=text if default is None else f"{text} (default: {default})",
            )


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Adapt to a folder."""
    from intern_jax.core.config import bind

    spec = arguments.keyword_arguments(rest) | {"fn": "intern_jax.adapt.folder:adapt_folder"}
    spec |= {"data": args.data, "init": args.init, "out": args.out, "method": args.method}
    for name in (name for knobs in KNOBS.values() for name in knobs):
        if hasattr(args, name):
            spec[name] = getattr(args, name)
    for name, value in bind(spec)().items():
        if isinstance(value, int | float | str):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
