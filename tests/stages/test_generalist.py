"""The generalist's contract: a role per branch, from where each array starts, and whose statistics a family moves."""

import jax
import numpy as np
import pytest
from tiny_batches import CLASSES, CONVOLUTIONS, abstract, drawn, labelled, quick_jit, seen

from intern_jax.core import averages, tree
from intern_jax.core.config import UserError
from intern_jax.stages.expert import Expert
from intern_jax.stages.generalist import Generalist
from intern_jax.train.stage import Role

BACKBONE = {"name": "generalist", "branch": CONVOLUTIONS}


def generalist(**settings) -> Generalist:
    given = {"backbone": BACKBONE, "classes": CLASSES, "dense_width": 8}
    return Generalist(**given | settings)


def left_by_experts() -> dict:
    """Shapes of what an expert of each family leaves, under its role."""
    found = {}
    for family in ("cls", "dense"):
        stage = Expert(CONVOLUTIONS, {family: CLASSES[family]}, dense_width=8)
        arrays = tree.names(abstract(stage, labelled(groups=(family,))))
        found |= {f"{family}/{name}": array for name, array in arrays.items()}
    return found


def test_every_array_of_a_branch_and_its_heads_starts_from_its_own_expert():
    stage, source = generalist(), left_by_experts()
    origins, report = tree.matches(abstract(stage, labelled()), source, stage.graft)
    assert stage.roles == {"cls": Role(), "dense": Role()}
    assert report.missing and all("/transfer_" in name for name in report.missing)
    assert not report.unused
    for target, origin in origins.items():
        role, _, path = origin.partition("/")
        if "/backbone/" not in target:
            assert path == target
            assert role == ("cls" if "/heads_" in target else "dense")
            continue
        # A branch's BatchNorm has a set for each family; both start from the one set of its own expert.
        collection, name, branch, *inside = target.split("/")
        assert branch == role
        plain = [part for part in inside if part not in ("cls", "dense")]
        assert path == "/".join([collection, name, *plain])
    doubled = [
        origin for origin in set(origins.values()) if list(origins.values()).count(origin) == 2
    ]
    norms = [
        n for n in source if n.rsplit("/", 1)[1] in ("mean", "var", "scale") and "/backbone/" in n
    ]
    assert norms and set(norms) <= set(doubled)


def test_branches_of_other_names_and_networks_have_roles_of_their_own():
    branches = ("cls", "dense", "photo")
    wide = CONVOLUTIONS | {"channels": (8, 16, 24, 8)}
    spec = {"cls": CONVOLUTIONS, "dense": wide, "photo": CONVOLUTIONS}
    backbone = {"name": "generalist", "branches": branches, "branch": spec}
    stage = generalist(backbone=backbone)
    assert tuple(stage.roles) == branches
    target = tree.names(abstract(stage, labelled()))
    photo = {
        f"photo/{collection}/backbone/{name}": target[f"{collection}/backbone/photo/{name}"]
        for collection in ("params", "batch_stats")
        for name in (
            n.split("/photo/", 1)[1]
            for n in target
            if n.startswith(f"{collection}/backbone/photo/")
        )
        if not any(part in branches for part in name.split("/"))
    }
    origins, report = tree.matches(target, photo, stage.graft)
    assert photo and not report.unused
    assert all(name.split("/")[2] == "photo" for name in origins)


def test_a_backbone_without_branches_is_refused():
    with pytest.raises(UserError, match="backbone: 'embedded_tiny' has no branches; write"):
        generalist(backbone=CONVOLUTIONS)


def test_a_group_without_a_branch_is_refused():
    stage = generalist()
    stage.check_data({"cls": {}, "dense_small": {}})
    with pytest.raises(
        UserError,
        match=r"data\.pairs: no branch of backbone serves 'pairs'; there are: cls, dense",
    ):
        stage.check_data({"cls": {}, "pairs": {}})


@pytest.fixture(scope="module")
def variables():
    stage = generalist()
    return stage, *drawn(stage, labelled())


def test_a_family_moves_its_own_set_of_statistics_alone(variables):
    stage, params, extra = variables
    before = tree.names(extra)
    run = quick_jit(lambda batch: stage.loss(seen(params, extra, batch)))
    for family, other in (("cls", "dense"), ("dense", "cls")):
        terms, (new, _) = run(labelled(groups=(family,)))
        assert set(terms) == (
            {"letters", "digits"} if family == "cls" else {"scenes", "rooms", "depth"}
        )
        after = tree.names(new)
        assert before.keys() == after.keys()
        moved = {name for name in before if not np.array_equal(before[name], after[name])}
        in_backbone = {name for name in moved if "/backbone/" in name}
        assert in_backbone and not {n for n in in_backbone if n.split("/")[-2] == other}
        # The decoder is the dense groups' own.
        assert any("/decoder/" in name for name in moved) == (family == "dense")


def test_both_families_together_are_each_on_its_own(variables):
    stage, params, extra = variables
    measure = quick_jit(lambda batch: stage.measure(params, extra, batch))
    together = measure(labelled())
    apart = measure(labelled(groups=("cls",))) | measure(labelled(groups=("dense",)))
    assert together.keys() == apart.keys()
    for name in apart:
        values = [float(averages.value(found[name])) for found in (together, apart)]
        assert values[0] == pytest.approx(values[1], rel=1e-4), name


def test_its_heads_answer_in_the_shapes_of_the_experts(variables):
    stage, params, extra = variables
    out = jax.eval_shape(stage.predict, params, extra, labelled())
    for family in ("cls", "dense"):
        one = Expert(CONVOLUTIONS, {family: CLASSES[family]}, dense_width=8)
        batch = labelled(groups=(family,))
        theirs = abstract(one, batch)
        wanted = jax.eval_shape(one.predict, theirs.pop("params"), theirs, batch)
        assert out[family] == wanted[family]
