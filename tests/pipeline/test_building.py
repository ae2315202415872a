"""From an entry to a stage: what constructors are given, in which dtype backbones compute, which rules start arrays."""

import pytest
import toy_stages
from toy_stages import entry

from intern_jax.core.config import UserError
from intern_jax.pipeline import building
from intern_jax.train.stage import Role

TINY = {"name": "embedded_tiny"}


class Named:
    """What a stage is told of a source of four samples."""

    def __init__(self, name, family="classification", classes=("a", "b")):
        self.name, self.family, self.classes = name, family, classes

    def __len__(self):
        return 4


def test_a_constructor_is_given_what_it_has_parameters_for():
    plain = building.build_stage(entry("First", arguments={"sign": -1.0}), TINY, {})
    assert isinstance(plain, toy_stages.First) and plain.sign == -1.0
    start = {"backbone": "small", "teacher": "big"}
    specs = {"small": TINY, "big": TINY | {"features": 8}}
    sources = {"points": [Named("one"), Named("two", classes=("a", "b", "c"))]}
    student = building.build_stage(entry("Student", start=start), TINY, sources, specs)
    assert student.backbone == TINY and student.classes == {"points": [("one", 2), ("two", 3)]}
    # Of two bound roles one is frozen: that one's spec is the teacher's.
    assert student.teachers == {"teacher": specs["big"]}


def test_to_know_what_a_stage_declares_no_source_and_no_earlier_stage_is_needed():
    student = building.build_stage(entry("Student", start={}), TINY, {})
    assert student.classes == {"points": []} and student.teachers == {}
    assert building.frozen_roles(student) == ["teacher"]
    assert student.roles == {"backbone": Role(), "teacher": Role(frozen=True)}


def test_a_constructor_that_fails_is_named():
    with pytest.raises(UserError, match=r"toy_stages:First: no argument 'sgin'; did you mean sign"):
        building.build_stage(entry("First", arguments={"sgin": 1.0}), TINY, {})
    wrong = entry("First")
    wrong["stage"] = {"fn": "builtins:int", "x": "no number"}
    with pytest.raises(UserError, match="builtins:int: "):
        building.build_stage(wrong, TINY, {})
    wrong["stage"] = {"fn": "toy_stages:Points"}
    with pytest.raises(UserError, match=r"toy_stages:Points: gave Points; name a subclass of "):
        building.build_stage(wrong, TINY, {})


def test_rules_of_a_config_come_first_or_alone():
    own, other = toy_stages.Join.graft, ["params/left/(.*)", r"right/params/backbone/\1"]
    for graft, wanted in (
        (None, own),
        ({}, own),
        ({"add": [other]}, [tuple(other), *own]),
        ({"replace": [other]}, [tuple(other)]),
        ({"replace": []}, []),
        ({"add": [], "replace": None}, own),
    ):
        made = building.build_stage(entry("Join", start={}, graft=graft), TINY, {})
        assert made.graft == list(wanted), graft
    assert toy_stages.Join.graft is own and len(own) == 1


def test_a_source_of_depth_alone_has_no_classes():
    opened = {
        "dense": [Named("rooms", "depth", ()), Named("scenes", "segmentation", ("a", "b", "c"))]
    }
    assert building.head_classes(opened) == {"dense": [("rooms", 0), ("scenes", 3)]}


def test_backbones_compute_in_the_runs_dtype_unless_they_name_their_own():
    own = TINY | {"dtype": "float32"}
    assert building.in_dtype(TINY, "float32") == TINY
    assert building.in_dtype(TINY, "auto") == TINY, "on a CPU"
    assert building.in_dtype(TINY, "bfloat16") == TINY | {"dtype": "bfloat16"}
    assert building.in_dtype(own, "bfloat16") == own
    both = {"name": "generalist", "branch": TINY}
    made = building.in_dtype(both, "bfloat16")
    assert made["branch"] == TINY | {"dtype": "bfloat16"} and both["branch"] == TINY
    settings = {"web": {"backbone": TINY}, "compute_dtype": "bfloat16"}
    assert building.spec_of(settings, "web")["dtype"] == "bfloat16"


def test_a_group_is_found_by_its_family_and_families_in_order():
    groups = ["dense", "pairs_web", "cls_small"]
    assert building.group_of(groups, "cls", "pairs") == "cls_small"
    assert building.group_of(groups, "pairs", "cls") == "pairs_web"
    assert building.group_of(groups, "cl") is None and building.group_of([], "cls") is None


def test_parameters_of_a_function_are_told_from_those_of_the_run():
    def measure(variables, stage, rows=8):
        return {"rows": (variables, stage, rows)}

    assert building.given_to(measure, building.MEASURED) == ("stage",)
    assert building.given_to(toy_stages.Student, building.GIVEN) == (
        "backbone",
        "classes",
        "teachers",
    )
    assert building.given_to(toy_stages.First, building.GIVEN) == ()


def test_how_many_rows_a_source_may_have_follows_from_its_group():
    sources = {"points": [Named("one"), Named("two")]}
    data = {"points": {"sources": [{"weight": 3.0}, {"weight": 1.0}], "batch_size": 16}}
    most = building.most_rows({"data": data}, sources)["points"]
    assert most(1) == [12, 4] and most(2) == [6, 2] and sum(most(16)) == 2
