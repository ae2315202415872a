"""Furniture meshes for the renderer: OBJ + MTL at metric size, one file per material."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import posixpath
import re
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tools.embedded.furniture import Model

MOST_TRIANGLES = 5000
TEXTURE_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Part:
    """One material of a model: an OBJ file, an optional texture file and a colour."""

    mesh: str
    texture: str | None
    colour: tuple[float, float, float, float]


def _materials(text: str) -> dict[str, dict]:
    table: dict[str, dict] = {}
    current: dict = {}
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "newmtl":
            current = table.setdefault(" ".join(words[1:]), {})
        elif words[0] == "Kd":
            current["colour"] = tuple(min(1.0, float(w)) for w in words[1:4])
        elif words[0] == "d":
            current["opacity"] = float(words[-1])
        elif words[0] == "map_Kd":
            current["texture"] = words[-1]
    return table


def _parse(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Vertices [V, 3], texture coordinates, triangles [T, 3, 2] (vertex, uv), material of each."""
    vertices, uvs, triangles, owners = [], [(0.0, 0.0)], [], []
    names: dict[str, int] = {}
    current = ""
    for line in text.splitlines():
        head, _, rest = line.partition(" ")
        if head == "v":
            vertices.append(tuple(map(float, rest.split()[:3])))
        elif head == "vt":
            u, v = map(float, rest.split()[:2])
            uvs.append((u, v))
        elif head == "usemtl":
            current = rest.strip()
        elif head == "f":
            corners = []
            for word in rest.split():
                numbers = word.split("/")
                v = int(numbers[0])
                t = int(numbers[1]) if len(numbers) > 1 and numbers[1] else 0
                corners.append(
                    (v - 1 if v > 0 else len(vertices) + v, t if t >= 0 else len(uvs) + t)
                )
            owner = names.setdefault(current, len(names))
            for k in range(1, len(corners) - 1):
                triangles.append((corners[0], corners[k], corners[k + 1]))
                owners.append(owner)
    return (
        np.array(vertices, float).reshape(-1, 3),
        np.array(uvs, float),
        np.array(triangles, int).reshape(-1, 3, 2),
        np.array(owners, int),
        list(names),
    )


def _place(vertices: np.ndarray, model: Model) -> np.ndarray:
    """Rotates as the catalogue asks, turns y-up into z-up, scales to size, stands it on z = 0."""
    turned = vertices @ np.array(model.rotation).reshape(3, 3).T
    turned = np.stack([turned[:, 0], -turned[:, 2], turned[:, 1]], 1)
    low, high = turned.min(0), turned.max(0)
    span = np.where(high - low > 1e-9, high - low, 1.0)
    unit = (turned - low) / span - np.array([0.5, 0.5, 0.0])
    return unit * np.array(model.size)


def _simplify(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges vertices on ever coarser grids until the mesh is small; returns kept-triangle mask."""
    keep = np.ones(len(triangles), bool)
    for cells in (96, 64, 48, 32, 24):
        if keep.sum() <= MOST_TRIANGLES:
            break
        step = np.ptp(vertices, 0).max() / cells
        grid = np.round(vertices / step).astype(int)
        _, first, merged = np.unique(grid, axis=0, return_index=True, return_inverse=True)
        merged = merged.reshape(-1)
        corner = merged[triangles[:, :, 0]]
        keep = (
            (corner[:, 0] != corner[:, 1])
            & (corner[:, 1] != corner[:, 2])
            & (corner[:, 0] != corner[:, 2])
        )
        _, index = np.unique(np.sort(corner, 1), axis=0, return_index=True)
        once = np.zeros(len(triangles), bool)
        once[index] = True
        keep &= once
        final = vertices[first][merged]
        if keep.sum() <= MOST_TRIANGLES or cells == 24:
            return final, keep
    return vertices, keep


def _write(path: Path, corners: np.ndarray, uvs: np.ndarray) -> None:
    """Flat-shaded OBJ: three own corners a triangle; uv shifted to be non-negative."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.maximum(length, 1e-12)
    uvs = uvs - np.floor(uvs.min((0, 1)))[None, None]
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in corners.reshape(-1, 3)]
    lines += [f"vt {u:.5f} {v:.5f}" for u, v in uvs.reshape(-1, 2)]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in normals]
    for k in range(len(corners)):
        a = 3 * k + 1
        lines.append(f"f {a}/{a}/{k + 1} {a + 1}/{a + 1}/{k + 1} {a + 2}/{a + 2}/{k + 1}")
    path.write_text("\n".join(lines) + "\n")


def _texture(archive: zipfile.ZipFile, member: str, path: Path) -> bool:
    """Writes a small opaque copy of a texture; False if it is missing or mostly cut out."""
    try:
        opened = Image.open(io.BytesIO(archive.read(member)))
    except (KeyError, OSError):
        return False
    image = opened.convert("RGBA")
    alpha = np.asarray(image.getchannel("A"), float) / 255
    colours = np.asarray(image.convert("RGB"), float)
    if alpha.mean() < 0.95:
        # The renderer knows no alpha: fill the cut-out with the mean of what is seen.
        mean = (colours * alpha[:, :, None]).sum((0, 1)) / max(alpha.sum(), 1e-6)
        colours = np.where(alpha[:, :, None] > 0.5, colours, mean[None, None])
    small = Image.fromarray(colours.astype(np.uint8)).resize(
        (TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.BOX
    )
    small.save(path)
    return True


def prepare(archive: zipfile.ZipFile, model: Model, folder: Path) -> list[Part]:
    """Writes the model's parts under `folder`; an empty list if the model cannot be used."""
    text = archive.read(model.path).decode("latin-1")
    vertices, uvs, triangles, owners, names = _parse(text)
    if not len(triangles):
        return []
    vertices = _place(vertices, model)
    vertices, keep = _simplify(vertices, triangles)
    triangles, owners = triangles[keep], owners[keep]
    base = posixpath.dirname(model.path)
    library = re.search(r"^mtllib (.+)$", text, re.M)
    table: dict[str, dict] = {}
    if library is not None:
        with contextlib.suppress(KeyError):
            table = _materials(archive.read(f"{base}/{library[1].strip()}").decode("latin-1"))
    looks: dict[tuple, list[int]] = {}
    for owner, name in enumerate(names):
        facts = table.get(name, {})
        if facts.get("opacity", 1.0) < 0.3:
            continue
        colour = tuple(round(c, 3) for c in facts.get("colour", (0.7, 0.7, 0.7)))
        looks.setdefault((facts.get("texture"), colour), []).append(owner)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for rank, ((texture, colour), of) in enumerate(looks.items()):
        mine = triangles[np.isin(owners, of)]
        if not len(mine):
            continue
        mesh = folder / f"{rank}.obj"
        _write(mesh, vertices[mine[:, :, 0]], uvs[mine[:, :, 1]])
        image = folder / f"{rank}.png"
        if texture and _texture(archive, posixpath.normpath(f"{base}/{texture}"), image):
            parts.append(Part(str(mesh), str(image), (1.0, 1.0, 1.0, 1.0)))
        else:
            parts.append(Part(str(mesh), None, (*colour, 1.0)))
    return parts
