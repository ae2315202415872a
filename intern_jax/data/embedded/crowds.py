"""Crowds of small persons who hide each other, composed at load time, with whole and visible boxes.

Sprites of people stand in groups on a ground, among things that are not to be found. As in CityPersons, a person's box
is of the whole figure, and its visible box of what is seen. Of whom little is seen is ignored. A scene is a pure
function of seed and index. Legend: S side of the square picture in pixels, P persons and things, N persons.
"""

from typing import NamedTuple

import numpy as np

from intern_jax.core.config import UserError, format_of, formatted
from intern_jax.data.detection.objects import Objects, labelled
from intern_jax.data.embedded.packs import Embedded
from intern_jax.data.embedded.scenes import POOL, Sprites, bank_of, sprites
from intern_jax.data.schema import fingerprints
from intern_jax.data.schema.sample import Sample
from intern_jax.data.sources.scenes import extents, paste, textured

PEOPLE = "people body"  # the group of emoji that stands for persons
PERSONS, THINGS, GROUPS = (6, 21), (2, 7), (3, 8)  # per scene, the last number excluded
HEIGHTS = (0.1, 0.26)  # of a person, as shares of S: far away, and near
LEAST_SEEN, LEAST_PIXELS = 0.2, 6  # of whom less is seen is ignored


class Figure(NamedTuple):
    """A sprite in a scene."""

    sprite: int
    person: bool  # or a thing
    height: int
    x: int  # of its middle
    y: int  # of its base


@formatted(1)
class Crowds(Embedded):
    """Scenes of persons: boxes of whole figures, cut to the picture in a sample."""

    family, labels, classes = "detection", None, ("person",)

    def __init__(self, name: str, bank: Sprites, seed: int, size: int, length: int):
        if size < 32 or length < 1:
            raise UserError(f"{name}: size {size}, length {length}; give size >= 32, length >= 1")
        self.name, self.cutouts, self.seed, self.size = name, bank, seed, size
        people = bank.group == bank.groups.index(PEOPLE)
        self._people, self._things = np.flatnonzero(people), np.flatnonzero(~people)
        self.keys = [f"{name}/{seed}/{size}/{i}" for i in range(length)]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Sample:
        image, found = self._scene(i)
        return labelled(image, self.keys[i], found)

    def objects(self, i: int) -> Objects:
        """boxes, labels, ignore, visible_boxes float32 [N,4] and visibility float32 [N], as of CityPersons."""
        return self._scene(i)[1]

    def fingerprint(self) -> str:
        """A digest of the settings, the sprites and the format number of the composition."""
        settings = (self.name, self.cutouts.selection, self.seed, self.size, len(self))
        return fingerprints.combine(*settings, self.cutouts.fingerprint(), format_of(type(self)))

    def _layout(self, rng: np.random.Generator) -> list[Figure]:
        """Persons and things, far ones first: P."""
        people, things, groups = (int(rng.integers(*span)) for span in (PERSONS, THINGS, GROUPS))
        centres = rng.uniform((0.1, 0.3), (0.9, 1.0), (groups, 2))
        at = centres[rng.integers(0, groups, people)] + rng.normal(0, (0.11, 0.04), (people, 2))
        at = np.concatenate([at, rng.uniform((0.0, 0.25), (1.0, 1.05), (things, 2))])
        far, near = HEIGHTS
        height = (far + (near - far) * at[:, 1]) * rng.uniform(0.85, 1.15, len(at))
        chosen = [*rng.choice(self._people, people), *rng.choice(self._things, things)]
        order = np.argsort(at[:, 1], kind="stable")
        pixels = np.rint(np.column_stack([height, at]) * self.size).astype(int)
        return [Figure(int(chosen[k]), bool(k < people), *pixels[k].tolist()) for k in order]

    def _scene(self, i: int) -> tuple[np.ndarray, Objects]:
        rng = np.random.Generator(np.random.PCG64([self.seed, range(len(self))[i], 2]))
        canvas, _ = textured(rng, self.size)
        instance = np.zeros((self.size, self.size), np.uint8)
        whole, areas, persons = [], [], []
        for number, figure in enumerate(self._layout(rng), start=1):
            piece = self.cutouts.cut(figure.sprite, max(figure.height, 4))
            solid = piece[1][:, :, 0] > 127
            top, left = figure.y - solid.shape[0], figure.x - solid.shape[1] // 2
            paste(canvas, instance, piece, left, top, number)
            corner = np.asarray([left, top, left, top], np.float32)
            whole.append(extents(solid, [0])[0] + corner)
            areas.append(int(solid.sum()))
            persons.append(figure.person)
        seen = np.bincount(instance.reshape(-1), minlength=len(whole) + 1)[1:]
        kept = np.flatnonzero(np.asarray(persons) & (seen > 0))
        boxes, visible = np.stack(whole)[kept], extents(instance, kept.tolist())
        hidden = seen[kept] < np.maximum(LEAST_PIXELS, LEAST_SEEN * np.asarray(areas)[kept])
        sides = (box[:, 2:] - box[:, :2] for box in (visible, boxes))
        seen_area, area = (side.prod(axis=1) for side in sides)
        return canvas, {
            "boxes": boxes,
            "labels": np.zeros(len(kept), np.int32),
            "ignore": hidden,
            "visible_boxes": visible,
            "visibility": seen_area / area,
        }


def person_crowds(seed: int = 0, size: int = 128, length: int = 20_000) -> Crowds:
    """Crowds of pool sprites, six to twenty persons each."""
    return Crowds("person_crowds", sprites(*POOL), seed, size, length)


def crowd_det(split: str, size: int = 128, length: int | None = None) -> Crowds:
    """Crowds in the unseen 3-D style; test persons and things are unseen in every style."""
    name, bank, seed, length = bank_of("crowd_det", split, length)
    return Crowds(name, bank, seed, size, length)
