"""Takes out of the benchmark what nearly equals a picture seen before, and reports it."""

from __future__ import annotations

import dataclasses

from tools.embedded.common import Item, near_pairs

LIMIT = 10.0
GREY_LIMIT = 5.0


@dataclasses.dataclass
class Check:
    """One comparison: how many of `items` lay closer than `limit` to a picture of `against`."""

    what: str
    items: int
    against: int
    limit: float
    found: int
    removed: int
    example: str


class Cleaner:
    """Removes near duplicates and keeps the list of checks."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def compare(
        self,
        what: str,
        items: list[Item],
        against: list[Item],
        limit: float = LIMIT,
        remove: bool = True,
    ) -> set[str]:
        """The keys of the items that nearly equal a picture of `against`."""
        pairs = near_pairs(items, against, limit)
        example = ""
        if pairs:
            i, j, distance = min(pairs, key=lambda p: p[2])
            example = f"{items[i].key} ~ {against[j].key} ({distance:.1f})"
        self.checks.append(
            Check(
                what,
                len(items),
                len(against),
                limit,
                len(pairs),
                len(pairs) if remove else 0,
                example,
            )
        )
        return {items[i].key for i, _, _ in pairs} if remove else set()


def clean_emoji(cleaner: Cleaner, items: list[Item], facts: dict) -> list[Item]:
    """Held-out pictures away from all pool concepts, and test halves from train halves."""
    parts: dict[str, list[Item]] = {"pool": [], "train": [], "test": []}
    for item in items:
        parts[facts["concepts"][item.columns["concept"]]["split"]].append(item)
    gone = cleaner.compare(
        "emoji: held-out concepts against pool concepts, all styles",
        parts["train"] + parts["test"],
        parts["pool"],
    )
    train = [i for i in parts["train"] if i.key not in gone]
    test = [i for i in parts["test"] if i.key not in gone]
    gone |= cleaner.compare("emoji_concept: test half against train half", test, train)
    return [i for i in items if i.key not in gone]


def clean_split(
    cleaner: Cleaner, name: str, items: list[Item], pool: list[Item], limit: float = LIMIT
) -> list[Item]:
    """Benchmark items (splits train and test) away from `pool`; test away from train."""
    own = [i for i in items if i.columns["split"] == "pool"]
    bench = [i for i in items if i.columns["split"] != "pool"]
    gone = cleaner.compare(
        f"{name}: train and test against the pre-training pool", bench, own + pool, limit
    )
    train = [i for i in bench if i.columns["split"] == "train" and i.key not in gone]
    test = [i for i in bench if i.columns["split"] == "test" and i.key not in gone]
    gone |= cleaner.compare(f"{name}: test against train", test, train, limit)
    return [i for i in items if i.key not in gone]
