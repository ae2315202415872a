"""Box rooms with catalogue furniture, rendered on the CPU: RGB, metric depth, masks, boxes."""

from __future__ import annotations

import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tools.embedded import meshes
from tools.embedded.common import Item, encode_png, encode_webp
from tools.embedded.furniture import Model, read_models
from tools.embedded.layout import CLASSES, Placed, class_of, furnish, split_models

SIZE = 96
DEPTH_UNIT = 0.005
COUNTS = {"pool": 1100, "train": 600, "test": 500}
NEAR, FAR = 0.1, 15.0


def _surface(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A 64 px procedural texture: plain, noise, stripes, planks or tiles in related colours."""
    base = rng.uniform(90, 235, 3) if kind != "floor" else rng.uniform(60, 210, 3)
    base = base * 0.35 + base.mean() * 0.65
    canvas = np.broadcast_to(base, (64, 64, 3)).copy()
    style = rng.integers(0, 5)
    y, x = np.mgrid[0:64, 0:64]
    if style == 1:
        width = int(rng.choice([8, 16, 32]))
        canvas += np.where((x // width) % 2, 14.0, -14.0)[:, :, None]
    elif style == 2:
        step = int(rng.choice([16, 32]))
        lines = (x % step < 2) | (y % step < 2)
        canvas += np.where(
            lines, -35.0, rng.normal(0, 6, (64 // step, 64 // step)).repeat(step, 0).repeat(step, 1)
        )[:, :, None]
    elif style == 3:
        rows = rng.normal(0, 14, (8, 1)).repeat(8, 0)
        canvas += np.where(y % 8 == 0, -30.0, rows)[:, :, None]
    if style != 0:
        coarse = rng.normal(0, 9, (16, 16)).repeat(4, 0).repeat(4, 1)
        canvas += coarse[:, :, None]
    canvas += rng.normal(0, 3, (64, 64, 1))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _grid(width: float, height: float, tile: float, path: Path) -> None:
    """A rectangle in the x-z plane facing +y, in cells of about 0.6 m (large triangles clip)."""
    columns, rows = int(np.ceil(width / 0.6)), int(np.ceil(height / 0.6))
    corners, uvs = [], []
    for i in range(columns):
        for j in range(rows):
            x0, x1 = width * i / columns - width / 2, width * (i + 1) / columns - width / 2
            z0, z1 = height * j / rows, height * (j + 1) / rows
            u0, u1 = (x0 + width / 2) / tile, (x1 + width / 2) / tile
            v0, v1 = z0 / tile, z1 / tile
            corners += [
                [(x1, 0, z0), (x0, 0, z0), (x0, 0, z1)],
                [(x1, 0, z0), (x0, 0, z1), (x1, 0, z1)],
            ]
            uvs += [[(u1, v0), (u0, v0), (u0, v1)], [(u1, v0), (u0, v1), (u1, v1)]]
    meshes._write(path, np.array(corners), np.array(uvs))


class Renderer:
    """Renders rooms of one split with pybullet's software rasteriser."""

    def __init__(self, models: dict[str, list[Model]], parts: dict[str, list], work: Path):
        import pybullet

        self.bullet = pybullet
        pybullet.connect(pybullet.DIRECT)
        self.models, self.parts, self.work = models, parts, work

    def _body(
        self, mesh: str, texture: str | None, colour: tuple, place: tuple, turn: tuple
    ) -> int:
        b = self.bullet
        shape = b.createVisualShape(
            b.GEOM_MESH, fileName=mesh, rgbaColor=colour, specularColor=(0.1, 0.1, 0.1)
        )
        body = b.createMultiBody(0, -1, shape, place, turn)
        if texture:
            b.changeVisualShape(body, -1, textureUniqueId=b.loadTexture(texture))
        return body

    def _shell(self, rng: np.random.Generator, size: tuple[float, float, float]) -> dict[int, int]:
        width, depth, height = size
        classes: dict[int, int] = {}
        euler = self.bullet.getQuaternionFromEuler
        textures = {}
        for kind in ("wall", "floor", "ceiling"):
            textures[kind] = str(self.work / f"{kind}.png")
            pixels = _surface(rng, kind)
            if kind == "ceiling":
                pixels = (pixels // 8 + 222 - rng.integers(0, 30)).astype(np.uint8)
            Image.fromarray(pixels).save(textures[kind])
        tile = {"wall": rng.uniform(0.8, 2.0), "floor": rng.uniform(0.6, 1.6), "ceiling": 3.0}
        half = np.pi / 2
        surfaces = (
            ("wall", width, height, (0, -depth / 2, 0), euler((0, 0, 0))),
            ("wall", width, height, (0, depth / 2, 0), euler((0, 0, np.pi))),
            ("wall", depth, height, (-width / 2, 0, 0), euler((0, 0, -half))),
            ("wall", depth, height, (width / 2, 0, 0), euler((0, 0, half))),
            ("floor", width, depth, (0, depth / 2, 0), euler((half, 0, 0))),
            ("ceiling", width, depth, (0, -depth / 2, height), euler((-half, 0, 0))),
        )
        for rank, (kind, across, up, place, turn) in enumerate(surfaces):
            mesh = self.work / f"shell{rank}.obj"
            _grid(across, up, tile[kind], mesh)
            body = self._body(str(mesh), textures[kind], (1, 1, 1, 1), place, turn)
            classes[body] = CLASSES.index(kind)
        return classes

    def _camera(
        self, rng: np.random.Generator, room: tuple[float, float], placed: list[Placed]
    ) -> tuple[list[float], list[float]] | None:
        for _ in range(30):
            x = rng.uniform(-room[0] / 2 + 0.25, room[0] / 2 - 0.25)
            y = rng.uniform(-room[1] / 2 + 0.25, room[1] / 2 - 0.25)
            if any(o.distance(x, y) < 0.35 for o in placed):
                continue
            target = placed[int(rng.integers(len(placed)))]
            tx, ty = (target.x + rng.normal(0, 0.3)) * 0.7, (target.y + rng.normal(0, 0.3)) * 0.7
            if np.hypot(tx - x, ty - y) > 1.5:
                return [x, y, rng.uniform(1.2, 1.8)], [tx, ty, rng.uniform(0.3, 1.0)]
        return None

    def room(self, seed: list[int]) -> dict | None:
        """One view, or None if the draw has too little to see."""
        rng = np.random.default_rng(seed)
        b = self.bullet
        b.resetSimulation()
        b.setPhysicsEngineParameter(enableFileCaching=0)
        size = (rng.uniform(3.2, 6.0), rng.uniform(3.2, 6.0), rng.uniform(2.4, 3.0))
        placed = furnish(rng, self.models, size[:2], self.parts)
        camera = self._camera(rng, size[:2], placed) if len(placed) >= 3 else None
        if camera is None:
            return None
        classes = self._shell(rng, size)
        owner: dict[int, int] = {}
        for rank, piece in enumerate(placed):
            for part in self.parts[piece.model.key]:
                body = self._body(
                    part.mesh,
                    part.texture,
                    part.colour,
                    (piece.x, piece.y, 0),
                    b.getQuaternionFromEuler((0, 0, piece.turn)),
                )
                classes[body] = piece.label
                owner[body] = rank
        view = b.computeViewMatrix(*camera, [0, 0, 1])
        lens = b.computeProjectionMatrixFOV(float(rng.uniform(58, 75)), 1.0, NEAR, FAR)
        light = [float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), float(rng.uniform(1.0, 2.5))]
        warm = rng.uniform(0.85, 1.0)
        _, _, rgb, buffer, bodies = b.getCameraImage(
            2 * SIZE,
            2 * SIZE,
            view,
            lens,
            shadow=0,
            lightDirection=light,
            lightColor=[1.0, float(0.5 + warm / 2), float(warm)],
            lightAmbientCoeff=float(rng.uniform(0.5, 0.65)),
            lightDiffuseCoeff=0.45,
            lightSpecularCoeff=0.05,
            renderer=b.ER_TINY_RENDERER,
        )
        shape = (2 * SIZE, 2 * SIZE)
        rgb = np.asarray(rgb, np.uint8).reshape(*shape, 4)[:, :, :3]
        buffer = np.asarray(buffer, np.float64).reshape(shape)
        bodies = np.asarray(bodies, np.int64).reshape(shape)
        return self._view(rgb, buffer, bodies, classes, owner, placed)

    def _view(
        self,
        rgb: np.ndarray,
        buffer: np.ndarray,
        bodies: np.ndarray,
        classes: dict[int, int],
        owner: dict[int, int],
        placed: list[Placed],
    ) -> dict | None:
        small = np.asarray(Image.fromarray(rgb).resize((SIZE, SIZE), Image.Resampling.BOX))
        buffer, bodies = buffer[1::2, 1::2], bodies[1::2, 1::2]
        depth = NEAR * FAR / (FAR - (FAR - NEAR) * buffer)
        mask = np.full(bodies.shape, 255, np.uint8)
        instance = np.full(bodies.shape, -1, np.int64)
        for body in np.unique(bodies):
            mask[bodies == body] = classes.get(int(body), 255)
            instance[bodies == body] = owner.get(int(body), -1)
        boxes, labels, seen = [], [], []
        for rank, piece in enumerate(placed):
            y, x = np.nonzero(instance == rank)
            if len(y) >= 24:
                boxes.append([int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1])
                labels.append(piece.label)
                seen.append(piece.model.key)
        share = (instance >= 0).mean()
        if (
            len(boxes) < 2
            or not 0.06 < share < 0.75
            or (mask == 255).mean() > 0.01
            or depth[mask != 255].min() < 0.3
            or small.std() < 14
        ):
            return None
        units = np.where(mask == 255, 0, np.clip(np.round(depth / DEPTH_UNIT), 1, 65535))
        return {
            "rgb": small,
            "depth": units.astype(np.uint16),
            "mask": mask,
            "boxes": boxes,
            "labels": labels,
            "models": seen,
        }


def prepare_parts(root: Path, models: list[Model], folder: Path) -> dict[str, list]:
    """Model key -> its parts, for the models whose files can be read."""
    archives = {f.stem: zipfile.ZipFile(f) for f in sorted(root.glob("*.sh3f"))}
    parts = {}
    for model in models:
        found = meshes.prepare(archives[model.catalogue], model, folder / model.key)
        if 0 < len(found) <= 12:
            parts[model.key] = found
    return parts


def _save_view(file: Path, view: dict | None) -> None:
    """Keeps a drawn view (or the fact that the draw was refused) between two runs."""
    part = file.with_suffix(".part.npz")
    view = {k: np.asarray(v) for k, v in (view or {}).items()}
    np.savez(part, **view)
    part.rename(file)


def _load_view(file: Path) -> dict | None:
    with np.load(file) as stored:
        view = dict(stored)
    if not view:
        return None
    lists = {k: view[k].tolist() for k in ("boxes", "labels", "models")}
    return {"rgb": view["rgb"], "depth": view["depth"], "mask": view["mask"], **lists}


def _to_item(split: str, index: int, view: dict) -> Item:
    blobs = {
        "image": encode_webp(view["rgb"], 90),
        "depth": encode_png(view["depth"]),
        "mask": encode_png(view["mask"]),
    }
    return Item(
        f"rooms/{split}/{index:04d}",
        view["rgb"],
        blobs,
        {"split": split, "models": view["models"]},
        {"boxes": view["boxes"], "box_labels": view["labels"]},
    )


def build(
    root: Path, cache: Path | None = None, counts: dict[str, int] | None = None
) -> tuple[list[Item], dict]:
    """Room items of all splits; rendered views are kept in `cache` so that a stop can go on."""
    models = read_models(root)
    splits = split_models(models)
    items: list[Item] = []
    attempts = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for number, (split, count) in enumerate((counts or COUNTS).items()):
            mine = [m for group in splits[split].values() for m in group]
            parts = prepare_parts(root, mine, work / "models")
            renderer = Renderer(splits[split], parts, work)
            done, attempt, start = 0, 0, time.time()
            while done < count:
                file = cache / f"{split}-{attempt:05d}.npz" if cache else None
                if file and file.exists():
                    view = _load_view(file)
                else:
                    view = renderer.room([2021, number, attempt])
                    if file:
                        _save_view(file, view)
                attempt += 1
                if view is not None:
                    items.append(_to_item(split, done, view))
                    done += 1
                    if done % 50 == 0:
                        rate = (time.time() - start) / attempt
                        print(f"rooms {split} {done}/{count} {rate:.2f} s a draw", flush=True)
            attempts[split] = attempt
            renderer.bullet.disconnect()
    table = {
        m.key: {"name": m.name, "class": class_of(m), "split": split, "creator": m.creator}
        for split, groups in splits.items()
        for group in groups.values()
        for m in group
    }
    return items, {
        "classes": CLASSES,
        "depth_unit_metres": DEPTH_UNIT,
        "models": table,
        "draws": attempts,
    }
