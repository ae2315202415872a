"""Every config that ships: its docstring's commands work as written, its fields can be overridden, its data fits."""

import ast
import itertools
import re
import shlex

import golden
import numpy as np
import pytest

from intern_jax import __main__ as cli
from intern_jax import pipeline
from intern_jax.benchmark.rows import suite
from intern_jax.core import config as config_lib
from intern_jax.core.config import load_config, override, plain
from intern_jax.pipeline import building, preflight
from intern_jax.verbs.arguments import config_overrides

SHIPPED = sorted(golden.CONFIGS.glob("*.py"))
RUNS = [path for path in SHIPPED if "stages" in load_config(path)]
DATA = [path for path in SHIPPED if "steps" in load_config(path)]
by_name = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


def docstring(path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8")))


def commands(path) -> list[list[str]]:
    """The arguments of every command of the docstring."""
    found = re.findall(r"python -m intern_jax (.+?)(?: says | then |\n|$)", docstring(path))
    return [shlex.split(line) for line in found]


def parsed(argv: list[str]):
    args, rest = cli.build_parser().parse_known_args(argv)
    return args, config_overrides(rest)


def named_fields(path) -> list[tuple[str, str]]:
    """(field, value) of every override that the docstring names; value "" where it gives none."""
    found = re.findall(r"--config\.([\w.]+?)(?:\.\*|=(\"[^\"]+\"|[^\s;,]+))", docstring(path))
    return [(field, "" if value == "..." else value.strip('"')) for field, value in found]


def test_the_wheel_and_the_checkout_ship_the_same():
    assert config_lib.shipped_configs() == golden.CONFIGS
    runs = [
        "amateurs",
        "declip",
        "detector",
        "experts",
        "many_sets",
        "mini",
        "quickstart",
        "scratch",
        "squeeze",
    ]
    assert [path.stem for path in SHIPPED] == sorted([*runs, "gvb", "wide_world"])
    assert [path.stem for path in RUNS] == runs


@by_name
def test_the_docstrings_first_command_starts_this_config(path):
    first, *others = commands(path)
    args, overrides = parsed(first)
    assert plain(load_config(args.config)) == plain(load_config(path)) and not overrides
    verb = "data" if path in DATA else "run" if path in RUNS else "benchmark"
    assert first[0] == verb and args.verb is cli.VERBS[verb].main
    for argv in others:
        parsed(argv)


@by_name
def test_a_docstring_says_what_the_machine_has_to_be(path):
    assert re.search(r"^Hardware: +\S", docstring(path), re.MULTILINE)


@by_name
def test_the_overrides_that_a_docstring_names_are_fields(path):
    config = load_config(path)
    for field, value in named_fields(path):
        if value:
            override(config, [f"{field}={value}"])
        else:
            node = config
            for name in field.split("."):
                node = node[name]
    if path in RUNS:
        pipeline.check(config)


def test_docstrings_name_overrides_at_all():
    named = {path.stem: named_fields(path) for path in SHIPPED}
    assert ("seeds", "(1,)") in named["mini"] and ("generalist.train.steps", "") in named["mini"]
    assert ("heads.classification.sgd.steps", "1000") in named["gvb"]
    assert ("rows", "('pets', 'dtd')") in named["gvb"]


def leaves(config, name=""):
    """(path, value) of every field that --config.PATH can set."""
    for key, value in config.items():
        path = f"{name}.{key}" if name else key
        if hasattr(value, "items") and value:
            yield from leaves(value, path)
        elif not hasattr(value, "items"):
            yield path, value


@by_name
def test_every_field_can_be_given_on_the_command_line(path):
    given = dict(leaves(load_config(path)))
    assert len(given) > 30
    words = [f"{field}={value!r}" for field, value in given.items()]
    assert plain(override(load_config(path), words)) == plain(load_config(path))


@by_name
def test_a_config_is_made_anew_each_time(path):
    before, changed = plain(load_config(path)), load_config(path)
    for field, value in leaves(changed):
        if isinstance(value, int | float) and not isinstance(value, bool):
            override(changed, [f"{field}={value + 1!r}"])
    assert plain(changed) != before
    assert plain(load_config(path)) == before


def test_mini_is_the_quickstart_longer_and_with_all_rows():
    short, long = (pipeline.check(load_config(name)) for name in ("quickstart", "mini"))
    changed = {line.split(":")[0] for line in config_lib.diff(short, long)}
    allowed = r"seeds|benchmark\..*|\w+\.train\.(steps|optim\.warmup_steps)"
    assert all(re.fullmatch(allowed, name) for name in changed), changed
    for stage in short["stages"]:
        assert long[stage]["train"]["steps"] > 2 * short[stage]["train"]["steps"]
    assert set(short["benchmark"]["rows"]) < set(long["benchmark"]["rows"])
    assert list(long["benchmark"]["rows"]) == [row.name for row in suite.MINI]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_fine_tuning_and_scratch_have_a_budget_for_every_row(path):
    benchmark = pipeline.check(load_config(path))["benchmark"]
    if benchmark is None:
        return
    families = {suite.find(name).family for name in benchmark["rows"]}
    for budget in filter(None, (benchmark["scratch"], benchmark["finetune"])):
        assert families <= budget["views"].keys() and families <= budget["batch_size"].keys()


QUICKSTART = pipeline.check(load_config("quickstart"))
GROUPS = [(stage, group) for stage in QUICKSTART["stages"] for group in QUICKSTART[stage]["data"]]


@pytest.mark.parametrize(("stage", "group"), GROUPS)
def test_every_group_gives_rows_that_fit_its_heads(stage, group):
    settings = QUICKSTART[stage]["data"][group]
    sources, batch = preflight.one_row({group: settings})
    size, row = settings["transform"]["size"], batch[group]
    pictures = [name for name in row if name.startswith("image")]
    assert pictures
    for name in pictures:
        assert row[name].shape == (1, size, size, 3) and row[name].dtype == np.uint8
    if group == "pairs":
        context = settings["transform"]["context"]
        assert row["tokens1"].shape == row["tokens2"].shape == (1, context)
        return
    heads = building.head_classes(sources)[group]
    assert [name for name, _ in heads] == [source["name"] for source in settings["sources"]]
    (number,) = row["source"]
    labels = {
        "cls": lambda: row["label"],
        "dense": lambda: row["mask"][row["mask"] != 255],
        "detection": lambda: row["box_labels"][row["box_valid"]],
    }[group]()
    assert (labels >= 0).all() and (labels < heads[number][1]).all()


def test_a_stage_never_starts_from_one_of_another_task():
    """Of the chain that ships: the expert of pictures gives the branch of pictures, and so for maps."""
    start = QUICKSTART["generalist"]["start"]
    for family, stage in start.items():
        assert family in QUICKSTART[stage]["data"]
    rungs = QUICKSTART["benchmark"]["ladder"]
    assert rungs["expert"] == start | {"detection": "expert_det"}
    for rung, (family, stage) in itertools.product(rungs, start.items()):
        assert rungs[rung][family] in (rung, stage)
