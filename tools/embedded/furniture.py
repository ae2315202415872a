"""The Sweet Home 3D furniture catalogues: facts of every model, and its catalogue icon."""

from __future__ import annotations

import collections
import dataclasses
import io
import re
import zipfile
from pathlib import Path

from PIL import Image

from tools.embedded.common import Item, by_hash, encode_webp, square

SIZE = 64
LICENCES = {
    "BlendSwap-CC-0": "CC0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


@dataclasses.dataclass(frozen=True)
class Model:
    """One catalogue entry; size in metres (width, depth, height)."""

    key: str
    name: str
    category: str
    catalogue: str
    creator: str
    icon: str
    path: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...]
    fixed: bool


def read_models(root: Path) -> list[Model]:
    """Every model of every catalogue, in catalogue and number order."""
    models = []
    for file in sorted(root.glob("*.sh3f")):
        with zipfile.ZipFile(file) as archive:
            text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
        rows: dict[int, dict[str, str]] = collections.defaultdict(dict)
        for line in text.splitlines():
            match = re.match(r"(\w+)#(\d+)=(.*)", line)
            if match:
                rows[int(match[2])][match[1]] = match[3].strip()
        for number, row in sorted(rows.items()):
            width, depth, height = (float(row[k]) / 100 for k in ("width", "depth", "height"))
            rotation = tuple(map(float, row.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()))
            models.append(
                Model(
                    key=f"{file.stem}/{number:03d}",
                    name=row["name"],
                    category=row["category"],
                    catalogue=file.stem,
                    creator=row.get("creator", ""),
                    icon=row["icon"].lstrip("/"),
                    path=row["model"].lstrip("/"),
                    size=(width, depth, height),
                    rotation=rotation,
                    fixed="elevation" in row or row.get("doorOrWindow") == "true",
                )
            )
    return models


def base_name(name: str) -> str:
    """Names that differ by a number or a size are one model name."""
    return re.sub(r"\s+", " ", re.sub(r"[\d\W_]+", " ", name.lower())).strip()


def build_icons(root: Path, seen: set[str]) -> tuple[list[Item], dict]:
    """Catalogue icons; columns: name, category, split by model name within a category.

    Names of which a model (`seen`: keys) stands in the pre-training rooms are for training only.
    """
    archives = {f.stem: zipfile.ZipFile(f) for f in sorted(root.glob("*.sh3f"))}
    models = [m for m in read_models(root) if m.icon in archives[m.catalogue].namelist()]
    sizes = collections.Counter(m.category for m in models)
    models = [m for m in models if sizes[m.category] >= 20]
    known = {base_name(m.name) for m in models if m.key in seen}
    test = set()
    home: dict[str, str] = {}
    for model in models:
        home.setdefault(base_name(model.name), model.category)
    for category in sorted(set(home.values())):
        names = by_hash([n for n, c in home.items() if c == category], "furniture icon")
        unseen = [n for n in names if n not in known]
        test.update(unseen[: round(0.4 * len(names))])
    items = []
    for model in models:
        image = Image.open(io.BytesIO(archives[model.catalogue].read(model.icon)))
        picture = square(image, SIZE)
        split = "test" if base_name(model.name) in test else "train"
        items.append(
            Item(
                f"furniture/{model.key}",
                picture,
                {"image": encode_webp(picture)},
                {
                    "name": model.name,
                    "category": model.category,
                    "split": split,
                    "catalogue": model.catalogue,
                    "creator": model.creator,
                },
            )
        )
    return items, {"classes": sorted({m.category for m in models}), "licences": LICENCES}
