"""`adapt`: a task of the user's own."""

from __future__ import annotations

import argparse

from intern_jax.verbs import arguments

TEXT = "Learn your own task from few labels; writes a model folder."


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
    parser.add_argument("--method", choices=("probe", "finetune"), default="probe")
    parser.epilog = (
        "--NAME=VALUE sets more. Of both methods: --canvas=PIXELS, --folds=NUMBER (of cross-validation), --seed, and "
        "--backbone=MODULE:NET for a start whose network is its author's own; --kind=folders (captions, webdataset, "
        "parquet, tfds, coco, voc, yolo) where --data may be read in two ways; --split=train+val or another part, "
        "--split=none where folders called like splits are classes; --level=2 where class folders lie in folders. Of "
        "probe with labels: --l2=(0.01,0.1), --readout=FORM, FORM:BRANCH+BRANCH or FORM:BRANCH+BRANCH@MAP+MAP: what is "
        "read of the backbone, FORM one of "
        "pooled, layers and grids, such as pooled:cls+dense or layers@layer4+pooled (inspect --model=INIT prints what "
        "each costs). Of finetune, and of both with boxes: --steps, --batch-size, --learning-rate, --flip=False. "
        "With boxes: --head=fcos or faster_rcnn, --head-settings=\"{'width': 64}\""
    )


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Adapt to a folder."""
    from intern_jax.core.config import bind

    spec = arguments.keyword_arguments(rest) | {"fn": "intern_jax.adapt.folder:adapt_folder"}
    spec |= {"data": args.data, "init": args.init, "out": args.out, "method": args.method}
    for name, value in bind(spec)().items():
        if isinstance(value, int | float | str):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
