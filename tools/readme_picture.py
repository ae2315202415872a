"""The README's picture: what the quickstart's generalist says of two scenes and two rooms, from a finished run.

    make quickstart
    python -m tools.readme_picture runs/quickstart docs/quickstart.png

The pictures are the first ones of each row's test split that the run kept; none is chosen by its result.
"""

import argparse
import io
import json
import pathlib

import PIL.Image

from intern_jax.report import pictures

ROWS = ("sprites_seg", "rooms_depth")
COUNT = 2  # pictures per row of the benchmark
COLORS = 256  # of the palette, which keeps the file small


def draw(run: pathlib.Path) -> PIL.Image.Image:
    """One line of pictures with truth and prediction per row of the benchmark, below each other."""
    lines = []
    # The name of a file has the key of what it shows, which results.json knows.
    kept = [one["npz"] for one in json.loads((run / "results.json").read_bytes())["pictures"]]
    for row in ROWS:
        (path,) = (path for path in kept if path.startswith(f"pictures/{row}-"))
        arrays = pictures.read(run / path)
        for name in ("images", "truth", "prediction", "valid"):
            if name in arrays:
                arrays[name] = arrays[name][:COUNT]
        lines.append(PIL.Image.open(io.BytesIO(pictures.render(arrays))).convert("RGB"))
    width = max(line.width for line in lines)
    sheet = PIL.Image.new("RGB", (width, sum(line.height for line in lines)), "white")
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    return sheet


def main() -> None:
    """Draw the picture at two thirds of its size, with few colours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path, help="the folder of a finished quickstart")
    parser.add_argument("out", type=pathlib.Path, help="the PNG to write")
    args = parser.parse_args()
    sheet = draw(args.run)
    small = sheet.resize(
        (sheet.width * 2 // 3, sheet.height * 2 // 3), PIL.Image.Resampling.LANCZOS
    )
    palette = small.quantize(COLORS)
    small.quantize(palette=palette, dither=PIL.Image.Dither.FLOYDSTEINBERG).save(
        args.out, optimize=True
    )


if __name__ == "__main__":
    main()
