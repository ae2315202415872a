"""Parameter trees by name ("backbone/stem/kernel"): partition them by regex, and graft arrays from others."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from intern_jax.core.config import UserError, compile_regex

# A rule for `graft`: (regex over the target's names, name in the source, which may use the regex's groups).
Rule = tuple[str, str]
# Of a network's parameters: blocks, and layers before and after them. Others, such as projections, are of heads.
_BLOCK = re.compile(r"(?P<network>(?:.*?/)??)(?:blocks|layer(?P<level>\d+))_(?P<place>\d+)/")
_BEFORE = re.compile(r"stem_|patch_embed|cls_token|(position|token)_embedding|norm_pre")
_AFTER = re.compile(r"(final_)?norm/|head_(conv|norm)/")


def names(tree: Any) -> dict[str, Any]:
    """Leaves of nested dicts by their "/"-joined names, in order of name."""
    flat: dict[str, Any] = {}
    _flatten(tree, "", flat)
    return dict(sorted(flat.items()))


def paths(tree: Any) -> dict[str, Any]:
    """Leaves of any tree of containers (a train state) by their "/"-joined paths, in the tree's order."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name(path: Any) -> str:
    """The "/"-joined name of a path that jax.tree_util gives."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _flatten(node: Any, prefix: str, flat: dict[str, Any]) -> None:
    if not isinstance(node, Mapping):
        flat[prefix] = node
        return
    for name, child in node.items():
        _flatten(child, f"{prefix}/{name}" if prefix else str(name), flat)


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from "/"-joined names: the inverse of `names`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def layers_above(names: Iterable[str]) -> dict[str, int]:
    """{parameter: layers from it to the heads}: 0 of heads, 1 of the last block, L + 1 of what is before L blocks.

    Each network has blocks of its own: names such as "backbone/blocks_3/...", "text/blocks_0/...", "layer2_0/...". Its
    norms after the blocks belong to the last one, as in timm. Other parameters are of heads,
    also those of an attention pool and of a generalist's transfer modules.
    """
    names = list(names)
    found = {name: match for name in names if (match := _BLOCK.match(name))}
    blocks: dict[str, set[tuple[int, int]]] = {}
    places = {n: (int(m["level"] or 0), int(m["place"])) for n, m in found.items()}
    for name, match in found.items():
        blocks.setdefault(match["network"], set()).add(places[name])

    def above(name: str) -> int:
        if name in found:
            return sum(place >= places[name] for place in blocks[found[name]["network"]])
        network = max((n for n in blocks if name.startswith(n)), key=len, default=None)
        if network is None:
            return 0
        own = name.removeprefix(network)
        return len(blocks[network]) + 1 if _BEFORE.match(own) else int(bool(_AFTER.match(own)))

    return {name: above(name) for name in names}


def partition(tree: Any, regex: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(leaves whose name the regex matches from its start, all others), each as nested dicts."""
    flat, pattern = names(tree), compile_regex(regex)
    mine = {name: value for name, value in flat.items() if pattern.match(name)}
    rest = {name: value for name, value in flat.items() if name not in mine}
    return unflatten(mine), unflatten(rest)


def merge(first: Any, second: Any) -> dict[str, Any]:
    """One tree with the leaves of both, those of `second` first; the inverse of `partition`."""
    return unflatten(names(first) | names(second))


@dataclasses.dataclass(frozen=True)
class GraftReport:
    """What a graft did: the targets it filled, those left as initialised, and source arrays that it did not use."""

    matched: list[str]
    missing: list[str]
    unused: list[str]

    def missing_share(self, leaves: Mapping[str, Any], prefix: str = "") -> float:
        """The share of the scalars in `leaves` (by name, without `prefix`) that the graft left as they were: 0 to 1."""
        total = sum(leaf.size for leaf in leaves.values())
        names = [n.removeprefix(prefix) for n in self.missing if n.startswith(prefix)]
        return sum(leaves[name].size for name in names if name in leaves) / max(total, 1)

    def summary(self) -> str:
        """One line with counts and a few names."""
        missing, unused = _some(self.missing), _some(self.unused)
        return f"matched {len(self.matched)}, missing {missing}, unused {unused}"


def _some(items: Sequence[str], count: int = 3) -> str:
    if not items:
        return "0"
    return f"{len(items)} ({', '.join(items[:count])}{', ...' if len(items) > count else ''})"


def graft(target: Any, source: Any, rules: Sequence[Rule]) -> tuple[dict[str, Any], GraftReport]:
    """`target`, with each leaf taken from `source` by the first rule whose source name exists there.

    Arrays keep the target's dtype. A different shape is a UserError: a graft never reshapes.
    """
    wanted, have = names(target), names(source)
    origins, report = matches(target, source, rules)
    started = {name: have[origin].astype(wanted[name].dtype) for name, origin in origins.items()}
    return unflatten(wanted | started), report


def matches(target: Any, source: Any, rules: Sequence[Rule]) -> tuple[dict[str, str], GraftReport]:
    """{name in `target`: name in `source`} of a graft. It reads shapes only, and raises as `graft` does."""
    wanted, have = names(target), names(source)
    compiled = [(compile_regex(regex), template) for regex, template in rules]
    origins: dict[str, str] = {}
    for name, leaf in wanted.items():
        found = (_origin(pattern, template, name) for pattern, template in compiled)
        origin = next((one for one in found if one in have), None)
        if origin is None:
            continue
        if tuple(have[origin].shape) != tuple(leaf.shape):
            raise UserError(
                f"graft {origin} -> {name}: shape {tuple(have[origin].shape)} is not "
                f"{tuple(leaf.shape)}; start from a checkpoint of the same model settings"
            )
        origins[name] = origin
    used, missing = set(origins.values()), [name for name in wanted if name not in origins]
    return origins, GraftReport(list(origins), missing, [n for n in have if n not in used])


def _origin(pattern: re.Pattern, template: str, name: str) -> str | None:
    match = pattern.fullmatch(name)
    try:
        return match.expand(template) if match else None
    except (re.error, IndexError) as error:
        raise UserError(
            f"graft {pattern.pattern!r} -> {template!r}: {error}; name a group of the regex"
        ) from None


def count(tree: Any) -> int:
    """Number of scalars in a tree of arrays."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
