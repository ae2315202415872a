"""Every mistake in a config is one line with its path and a remedy, before any work; and what is right stays right."""

import copy
import os
import pathlib
import subprocess
import sys

import pytest

from intern_jax import __main__ as cli
from intern_jax import pipeline
from intern_jax.core import schema
from intern_jax.core.config import UserError, load_config, plain
from intern_jax.core.mesh import make_mesh
from intern_jax.pipeline import preflight
from intern_jax.pipeline import settings as settings_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = plain(load_config("quickstart"))
EMBEDDED = "intern_jax.data.embedded:load"
EVALUATOR = {"fn": "users_parts:sharpness"}


def group(c):
    return c["expert_cls"]["data"]["cls"]


def optim(c):
    return c["expert_cls"]["train"]["optim"]


def finetune(c, **changes):
    budget = {"views": {}, "batch_size": {}, "fractions": (0.1,), "learning_rate": 1e-3}
    c["benchmark"]["finetune"] = budget | changes


# {what: (change of the quickstart's config, what is said)}.
STRUCTURE = {
    "stage misspelt": (
        lambda c: c["expert_cls"].update(stgae=c["expert_cls"].pop("stage")),
        "config.expert_cls.stgae: no such field; did you mean stage",
    ),
    "a field that is no more": (
        lambda c: c["expert_cls"].update(heads=True),
        "config.expert_cls.heads: no such field; known: backbone, data",
    ),
    "unknown key of a stage": (
        lambda c: c["expert_cls"].update(bakbone={"name": "x"}),
        "config.expert_cls.bakbone: no such field; did you mean backbone?",
    ),
    "unknown key at the top": (
        lambda c: c.update(wrokers=4),
        "config.wrokers: no such field; did you mean workers?",
    ),
    "unknown key of a group": (
        lambda c: group(c).update(batchsize=4),
        "config.expert_cls.data.cls.batchsize: no such field; did you mean batch_size?",
    ),
    "batch size missing": (
        lambda c: group(c).pop("batch_size"),
        "config.expert_cls.data.cls.batch_size: missing; write the rows",
    ),
    "unknown argument of a transform": (
        lambda c: group(c)["transform"].update(sizee=4),
        "data.cls.transform: intern_jax.data.make.views:classification: no argument 'sizee'; did",
    ),
    "a stage without data": (
        lambda c: c["expert_cls"].pop("data"),
        "config.expert_cls.data: missing; write at least one group",
    ),
    "a stage without start": (
        lambda c: c["expert_cls"].pop("start"),
        "config.expert_cls.start: missing; bind backbone to earlier stages, or write None",
    ),
    "unknown group": (
        lambda c: c["expert_cls"].update(data={"classes": group(c)}),
        "config.expert_cls.data.classes: intern_jax.stages.expert:Expert reads no such kind",
    ),
    "a stage that is not described": (
        lambda c: c.update(stages=("amateur", "novice")),
        "config.novice: stage 'novice' is listed in config.stages, not described",
    ),
    "a stage named as a field": (
        lambda c: c.update(stages=("mesh",)),
        "config.stages: a stage cannot be called 'mesh'",
    ),
    "a stage listed twice": (
        lambda c: c.update(stages=("amateur", "amateur")),
        "config.stages[1]: 'amateur' stands twice",
    ),
    "a group without sources": (
        lambda c: group(c).update(sources=()),
        "config.expert_cls.data.cls.sources: empty; write at least one source",
    ),
    "suffix of an unknown family": (
        lambda c: c["expert_cls"]["data"].update(boxes_small=group(c)),
        "config.expert_cls.data.boxes_small: ",
    ),
    "a source without its name": (
        lambda c: group(c)["sources"][1].pop("name"),
        "config.expert_cls.data.cls.sources[1]: intern_jax.data.embedded:load: missing a required",
    ),
    "an unknown embedded source": (
        lambda c: group(c)["sources"][1].update(name="clipart_pol"),
        "data.cls.sources[1]: embedded source 'clipart_pol': unknown; known: clipart_pool",
    ),
    "a transform of one argument": (
        lambda c: group(c).update(transform={"fn": "intern_jax.core.config:format_of"}),
        "data.cls.transform: intern_jax.core.config:format_of: too many positional arguments",
    ),
    "an unknown module": (
        lambda c: c["amateur"]["stage"].update(fn="my_stages:Amateur"),
        "config.amateur.stage: 'my_stages:Amateur': no module 'my_stages'",
    ),
    "no stage": (
        lambda c: c["amateur"].update(stage={"fn": "intern_jax.core.digests:digest", "x": 1}),
        "config.amateur.stage: ",
    ),
    "an argument that the run gives": (
        lambda c: c["expert_cls"]["stage"].update(classes={}),
        "config.expert_cls.stage.classes: not to be written here",
    ),
    "a missing argument of a stage": (
        lambda c: c["amateur"]["stage"].pop("text"),
        "config.amateur.stage: intern_jax.stages.amateur:Amateur: missing a required argument",
    ),
    "an evaluator without every": (
        lambda c: c["amateur"].update(evaluators={"sharp": EVALUATOR}),
        "config.amateur.evaluators.sharp.every: missing; write steps between two evaluations",
    ),
    "an evaluator with a wrong argument": (
        lambda c: c["amateur"].update(evaluators={"sharp": EVALUATOR | {"every": 5, "rowss": 3}}),
        "config.amateur.evaluators.sharp: users_parts:sharpness: no argument 'rowss'; did you mean",
    ),
    "the seed of one stage": (
        lambda c: c["amateur"]["train"].update(seed=3),
        "config.amateur.train.seed: no such field in a run; set config.seeds",
    ),
}
ROLES = {
    "unknown role": (
        lambda c: c["expert_cls"]["start"].update(teacher="amateur"),
        "config.expert_cls.start.teacher: the stage has no such role; known: backbone",
    ),
    "a role bound to a later stage": (
        lambda c: c["expert_cls"]["start"].update(backbone="generalist"),
        "config.expert_cls.start.backbone: 'generalist' is not an earlier stage of config.stages",
    ),
    "a role bound to an unknown stage": (
        lambda c: c["expert_cls"]["start"].update(backbone="amatuer"),
        "config.expert_cls.start.backbone: no earlier stage 'amatuer'; did you mean amateur?",
    ),
    "one role of two": (
        lambda c: c["generalist"]["start"].pop("dense"),
        "config.generalist.start.dense: missing; bind it to an earlier stage, or write None",
    ),
    "names instead of roles": (
        lambda c: c["expert_cls"].update(start=("amateur",)),
        "config.expert_cls.start: ['amateur']; write {role: earlier stage}",
    ),
    "a rule of a role that is not bound": (
        lambda c: c["expert_cls"].update(graft={"add": [["params/(.*)", r"web/params/\1"]]}),
        r"config.expert_cls.graft: 'web/params/\1' names the role 'web', which",
    ),
    "a rule that is no regex": (
        lambda c: c["expert_cls"].update(graft={"add": [["(", "backbone/params"]]}),
        "config.expert_cls.graft.add[0]: '(' is not a regular expression",
    ),
    "add and replace": (
        lambda c: c["expert_cls"].update(graft={"add": [["a", "backbone/b"]], "replace": []}),
        "config.expert_cls.graft: add and replace exclude each other",
    ),
}
VALUES = {
    "unknown mesh axis": (lambda c: c["mesh"].update(dta=1), "config.mesh.dta: no such field; did"),
    "a mesh axis of 0": (lambda c: c["mesh"].update(fsdp=0), "config.mesh.fsdp: 0; write a whole"),
    "two axes that take the rest": (
        lambda c: c["mesh"].update(fsdp=-1),
        "config.mesh: -1 in several axes",
    ),
    "a text for a number": (
        lambda c: c["amateur"]["train"].update(log_every="20"),
        "config.amateur.train.log_every: '20'; write a whole number",
    ),
    "negative steps": (
        lambda c: c["amateur"]["train"].update(steps=-1),
        "config.amateur.train.steps: -1; write a whole number, 0 for none",
    ),
    "a bool for a number": (
        lambda c: group(c).update(batch_size=True),
        "config.expert_cls.data.cls.batch_size: True; write the rows",
    ),
    "a number for a flag": (
        lambda c: c["benchmark"].update(validation=1),
        "config.benchmark.validation: 1; write True or False",
    ),
    "no seeds": (
        lambda c: c.update(seeds=()),
        "config.seeds: empty; write a list of whole numbers",
    ),
    "a seed twice": (lambda c: c.update(seeds=(0, 1, 0)), "config.seeds[2]: 0 stands twice"),
    "an unknown optimizer": (
        lambda c: optim(c).update(name="adamm"),
        "config.expert_cls.train.optim.name: no optimizer 'adamm'; did you mean adamw?",
    ),
    "no learning rate": (
        lambda c: optim(c).pop("learning_rate"),
        "config.expert_cls.train.optim.learning_rate: missing; write the peak rate",
    ),
    "a rate that is no number": (
        lambda c: optim(c).update(learning_rate=float("nan")),
        "config.expert_cls.train.optim.learning_rate: nan; write the peak rate",
    ),
    "a group of parameters without a regex": (
        lambda c: optim(c).update(groups={"head": {"clip_norm": 0.0}}),
        "config.expert_cls.train.optim.groups.head.match: missing; write a regex",
    ),
    "micro-batches of a coupled loss": (
        lambda c: (
            c["amateur"]["stage"].update(fn="users_parts:Coupled"),
            c["amateur"]["train"].update(accumulate=4),
        ),
        "config.amateur.train.accumulate: 4 micro-batches would change the loss",
    ),
    "weight 0": (
        lambda c: group(c)["sources"][0].update(weight=0),
        "config.expert_cls.data.cls.sources[0].weight: 0; write a number above 0",
    ),
    "an unknown shuffle": (
        lambda c: group(c).update(shuffle={"blok": 8}),
        "config.expert_cls.data.cls.shuffle.blok: no such field; did you mean block?",
    ),
    "an unknown dtype": (
        lambda c: c.update(compute_dtype="float16"),
        "config.compute_dtype: no 'float16'; did you mean bfloat16",
    ),
    "an unknown backbone": (
        lambda c: c["generalist"]["backbone"].update(name="generalit"),
        "config.generalist.backbone.name: no backbone 'generalit'; did you mean generalist?",
    ),
    "no plain value": (
        lambda c: c.update(seeds=(len,)),
        "config.seeds[0]: <built-in function len>",
    ),
}
BENCHMARK = {
    "unknown key of the benchmark": (
        lambda c: c["benchmark"].update(finetun={"x": 1}),
        "config.benchmark.finetun: no such field; did you mean finetune?",
    ),
    "unknown key of scratch": (
        lambda c: c["benchmark"]["scratch"].update(learning_rte=1),
        "config.benchmark.scratch.learning_rte: no such field; did you mean learning_rates?",
    ),
    "lbfgs without l2": (
        lambda c: c["benchmark"]["heads"]["classification"].update(lbfgs={"l22": 3}),
        "config.benchmark.heads.classification.lbfgs.l22: no such field; did you mean l2?",
    ),
    "a readout that does not exist": (
        lambda c: c["benchmark"]["heads"]["classification"].update(lbfgs={"readout": "layrs:cls"}),
        "config.benchmark.heads.classification.lbfgs.readout: no 'layrs'; did you mean layers?",
    ),
    "a readout of a branch that a rung lacks": (
        lambda c: c["benchmark"]["heads"]["classification"].update(lbfgs={"readout": "pooled:sky"}),
        "config.benchmark.heads.classification.lbfgs.readout: 'pooled:sky': no branch 'sky'; the",
    ),
    "a dense head without steps": (
        lambda c: c["benchmark"]["heads"]["depth"]["panoptic"].pop("steps"),
        "config.benchmark.heads.depth.panoptic.steps: missing",
    ),
    "a head of another family": (
        lambda c: c["benchmark"]["heads"]["depth"].update(knn={}),
        "config.benchmark.heads.depth: no head 'knn' for depth; use panoptic, depth",
    ),
    "heads of no family": (
        lambda c: c["benchmark"]["heads"].update(classifcation={}),
        "config.benchmark.heads: no family or row 'classifcation'; did you mean classification?",
    ),
    "a text where an argument is a number": (
        lambda c: group(c)["transform"].update(size="32"),
        "config.expert_cls.data.cls.transform.size: '32'; write a whole number",
    ),
    "a text where an argument is a choice": (
        lambda c: group(c)["transform"].update(train="no"),
        "config.expert_cls.data.cls.transform.train: 'no'; write True or False",
    ),
    "a backbone's table that is no list": (
        lambda c: c["backbone"].update(repeats=3),
        "config.backbone: cannot be built of",
    ),
    "two groups of pairs": (
        lambda c: c["amateur"]["data"].update(pairs_b=c["amateur"]["data"]["pairs"]),
        "config.amateur.data.pairs_b: the amateur contrasts the pairs of one group",
    ),
    "texts longer than the tower's": (
        lambda c: c["amateur"]["data"]["pairs"]["transform"].update(context=32),
        "config.amateur.data.pairs.transform.context: 32 tokens; stage.text.context is 16",
    ),
    "more words than the tower knows": (
        lambda c: c["amateur"]["stage"]["text"].update(vocab_size=10),
        "config.amateur.data.pairs.transform.tokenizer: has 4096 words; stage.text.vocab_size is 10",
    ),
    "a family without a branch": (
        lambda c: c["generalist"].update(
            backbone={**c["generalist"]["backbone"], "branches": ("cls", "photo")},
            start={"cls": "expert_cls", "photo": None},
        ),
        "config.generalist.data.dense: no branch of backbone serves 'dense'",
    ),
    "a generalist of one network": (
        lambda c: c["generalist"].pop("backbone"),
        "config.generalist.stage: backbone: 'embedded' has no branches",
    ),
    "an optimizer group called main": (
        lambda c: optim(c).update(groups={"main": {"match": "heads_"}}),
        "config.expert_cls.train.optim.groups.main: the group of all others; name it otherwise",
    ),
    "a negative seed": (
        lambda c: c.update(seeds=(-1,)),
        "config.seeds[0]: -1; write a list of whole numbers from 0",
    ),
    "a graft rule with a group that the regex lacks": (
        lambda c: c["expert_cls"].update(graft={"add": [["params/(.*)", r"backbone/params/\2"]]}),
        "invalid group reference 2",
    ),
    "held-out data that is no group": (
        lambda c: c["expert_cls"].update(
            evaluators={
                "h": {
                    "fn": "intern_jax.stages.held_out:HeldOut",
                    "every": 5,
                    "data": {"cls": {"sources": []}},
                }
            }
        ),
        "data.cls",
    ),
    "zero-shot prompts that are no set": (
        lambda c: c["amateur"].update(
            evaluators={
                "named": {
                    "fn": "intern_jax.stages.zero_shot:ZeroShot",
                    "every": 5,
                    "templates": "8",
                    "data": {"pets": dict(c["expert_cls"]["data"]["cls"])},
                }
            }
        ),
        "no set of prompts '8'",
    ),
    "retrieval without sources": (
        lambda c: c["amateur"].update(
            evaluators={
                "found": {
                    "fn": "intern_jax.stages.retrieval:Retrieval",
                    "every": 5,
                    "data": {"pets": {"sources": []}},
                }
            }
        ),
        "data.pets",
    ),
    "templates of the report's zero-shot words": (
        lambda c: c["benchmark"]["zero_shot"].update(templates=["a photo"]),
        "config.benchmark.zero_shot.templates: 'a photo'; write texts with one {}",
    ),
    "a row that no head is for": (
        lambda c: c["benchmark"]["heads"].pop("depth"),
        "config.benchmark.heads: none for row rooms_depth; add depth or rooms_depth",
    ),
    "no weight decay to try": (
        lambda c: c["benchmark"]["scratch"].update(weight_decays=()),
        "config.benchmark.scratch.weight_decays: empty; write a list of numbers of at least 0",
    ),
    "a negative weight decay": (
        lambda c: c["benchmark"]["scratch"].update(weight_decays=(0.1, -0.1)),
        "config.benchmark.scratch.weight_decays[1]: -0.1; write a list of numbers of at least 0",
    ),
    "an augmentation that the transform has not": (
        lambda c: c["benchmark"]["scratch"].update(augment={"classification": {"colour": 0.0}}),
        "config.benchmark.scratch.augment.classification: intern_jax.data.make.views:classification",
    ),
    "an augmentation of the row's own": (
        lambda c: c["benchmark"]["scratch"].update(augment={"classification": {"size": 8}}),
        "config.benchmark.scratch.augment.classification.size: not to be written here; the row",
    ),
    "an augmentation of no family": (
        lambda c: c["benchmark"]["scratch"].update(augment={"clasification": {}}),
        "config.benchmark.scratch.augment.clasification: no family 'clasification'; did you mean",
    ),
    "a length of nothing": (
        lambda c: c["benchmark"]["scratch"].update(lengths=(1, 0)),
        "config.benchmark.scratch.lengths[1]: 0; write a list of factors above 0",
    ),
    "a limit below the lengths": (
        lambda c: c["benchmark"]["scratch"].update(lengths=(1, 4), longest=2),
        "config.benchmark.scratch.longest: 2; write at least the longest of lengths, 4",
    ),
    "an unknown network of scratch": (
        lambda c: c["benchmark"]["scratch"].update(networks=("branch", "generalst")),
        "config.benchmark.scratch.networks[1]: no 'generalst'; did you mean generalist?",
    ),
    "a generalist that is no network": (
        lambda c: c["benchmark"]["scratch"].update(generalist={"name": "generalst"}),
        "config.benchmark.scratch.generalist.name: no backbone 'generalst'; did you mean",
    ),
    "an unknown setting of the text tower": (
        lambda c: c["amateur"]["stage"]["text"].update(widht=3),
        "text.widht: no such setting of the text tower; did you mean width",
    ),
    "no ladder": (
        lambda c: c["benchmark"].update(ladder={}),
        "config.benchmark.ladder: empty; write {rung: {cls, dense or family: stage}}",
    ),
    "a rung of an unknown stage": (
        lambda c: c["benchmark"]["ladder"]["expert"].update(cls="expert_clss"),
        "config.benchmark.ladder.expert.cls: no stage 'expert_clss'; did you mean expert_cls",
    ),
    "a rung without a task of the rows": (
        lambda c: c["benchmark"]["ladder"]["expert"].pop("dense"),
        "config.benchmark.ladder.expert.dense: missing; row sprites_seg needs it",
    ),
    "zero-shot by an unknown stage": (
        lambda c: c["benchmark"]["zero_shot"].update(stage="nobody"),
        "config.benchmark.zero_shot.stage: no stage 'nobody'; known: amateur",
    ),
    "zero-shot by a stage without texts": (
        lambda c: c["benchmark"]["zero_shot"].update(stage="expert_cls"),
        "config.benchmark.zero_shot.stage: 'expert_cls' learns from no texts",
    ),
    "zero-shot on depth": (
        lambda c: c["benchmark"]["zero_shot"].update(row="rooms_depth"),
        "config.benchmark.zero_shot.row: no row of classification 'rooms_depth'",
    ),
    "fine-tune of an unknown rung": (
        lambda c: finetune(c, rung="nobody"),
        "config.benchmark.finetune.rung: no rung 'nobody'",
    ),
    "a budget without a family": (
        lambda c: finetune(c, rung="expert", views={"classification": 9}),
        "config.benchmark.finetune.batch_size.classification: missing; row emoji_style_group",
    ),
    "a fraction above 1": (
        lambda c: c["benchmark"].update(fractions=(0.1, 2.0)),
        "config.benchmark.fractions[1]: fraction 2.0 is outside (0, 1]",
    ),
    "an unknown row": (
        lambda c: c["benchmark"].update(rows=("furnitures",)),
        "config.benchmark.rows[0]: no row 'furnitures'; did you mean furniture?",
    ),
    "draws of none": (
        lambda c: c["benchmark"].update(draws=0),
        "config.benchmark.draws: 0; write a whole number of at least 1",
    ),
}
MISTAKES = {**STRUCTURE, **ROLES, **VALUES, **BENCHMARK}


@pytest.fixture(scope="module", autouse=True)
def users_parts(tmp_path_factory):
    """A module of a user's own on the path."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "users_parts.py").write_text(
        "from intern_jax.stages.amateur import Amateur\n\n\n"
        "class Coupled(Amateur):\n    batch_coupled = True\n\n\n"
        "def sharpness(variables, rows=8):\n    return {'sharp': 1.0}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_path(name):
    change, message = MISTAKES[name]
    config = copy.deepcopy(QUICKSTART)
    change(config)
    with pytest.raises(UserError) as caught:
        pipeline.check(config)
    said = str(caught.value)
    assert message in said and "\n" not in said and len(said) < 700, said


@pytest.mark.parametrize("name", ["quickstart", "mini", str(ROOT / "tools/chaos/small.py")])
def test_what_comes_out_is_plain_and_complete_and_comes_out_again(name):
    config = pipeline.check(load_config(name))
    assert plain(config) == config and pipeline.check(config) == config
    assert config["amateur"]["train"]["max_rollbacks"] == 3
    assert config["amateur"]["stage"]["embed_dim"] == 128
    assert config["amateur"]["backbone"] == config["backbone"]


def test_defaults_that_are_written_out_change_nothing():
    config = copy.deepcopy(QUICKSTART)
    config["workers"] = 0
    config["amateur"]["stage"]["simsiam_hidden"] = 256
    config["amateur"]["train"] |= {"max_rollbacks": 3, "spike": None}
    config["amateur"]["train"]["optim"]["b1"] = 0.9
    group(config)["shuffle"] = "full"
    group(config)["transform"]["hue"] = 0
    config["expert_cls"]["evaluators"] = {}
    assert pipeline.check(config) == pipeline.check(QUICKSTART)


def test_a_default_written_as_a_list_reaches_the_function_as_its_own():
    config = pipeline.check(QUICKSTART)
    transform = group(config)["transform"]
    assert transform["scale"] == [0.6, 1.3]
    from intern_jax.core.config import bind

    assert bind(transform).keywords == {"size": 32}


def test_a_run_without_stages_has_a_benchmark_without_rungs():
    config = plain(load_config("scratch"))
    assert pipeline.check(config)["stages"] == []
    config["benchmark"]["scratch"].pop("generalist")
    said = r"^config\.benchmark\.scratch\.generalist: missing; write the network's spec"
    with pytest.raises(UserError, match=said):
        pipeline.check(config)
    config["benchmark"]["scratch"]["networks"] = ["branch"]
    config["benchmark"]["ladder"] = {"expert": {"cls": "expert_cls", "dense": "expert_cls"}}
    said = r"^config\.benchmark\.ladder\.expert\.cls: no stage 'expert_cls'; known: none"
    with pytest.raises(UserError, match=said):
        pipeline.check(config)
    said = r"^config\.stages: empty; name a stage, or write a benchmark, which needs none"
    with pytest.raises(UserError, match=said):
        pipeline.check(config | {"benchmark": None})


def test_several_mistakes_are_counted():
    config = copy.deepcopy(QUICKSTART)
    config["seeds"], config["workers"] = [], -1
    with pytest.raises(UserError, match=r"^config\.seeds: empty; .* \(and 1 more\)$"):
        pipeline.check(config)


def test_a_described_stage_that_is_not_listed_is_left_out():
    config = copy.deepcopy(QUICKSTART)
    config["stages"], config["benchmark"] = ["amateur"], None
    assert "expert_cls" not in pipeline.check(config)


def test_groups_of_a_family_may_have_a_suffix():
    config = copy.deepcopy(QUICKSTART)
    config["expert_cls"]["data"] = {"cls_small": group(config)}
    config["amateur"]["data"] = {"pairs_web": config["amateur"]["data"]["pairs"]}
    checked = pipeline.check(config)
    assert list(checked["expert_cls"]["data"]) == ["cls_small"]


def test_pairs_of_any_suffix_reach_the_towers():
    config = copy.deepcopy(QUICKSTART)
    config["stages"], config["benchmark"] = ["amateur"], None
    config["amateur"]["data"] = {"pairs_web": config["amateur"]["data"]["pairs"]}
    config["amateur"]["stage"]["text"] |= {"width": 16, "layers": 1, "heads": 2}
    config["backbone"] = {"name": "embedded_tiny"}
    preflight.check(pipeline.check(config), "amateur", make_mesh(data=1), {})


# What the whole config's check cannot see and shapes can: told before the first stage is trained.
UNSEEN = {
    "an unknown loss term": (
        lambda e: e["stage"].update(weights={"emoji": 2.0}),
        "config.expert_cls: expert_cls.weights.emoji: no such loss term",
    ),
    "nothing to train": (
        lambda e: e["stage"].update(trainable="bakbone/"),
        "trainable: 'bakbone/' matches no parameter",
    ),
    "nothing to hold still": (
        lambda e: e["stage"].update(still="bakbone/"),
        "still: 'bakbone/' matches no statistics",
    ),
    "a loss that takes other arguments": (
        lambda e: e["stage"].update(
            losses={"classification": {"fn": "intern_jax.losses.contrastive:unit"}}
        ),
        "config.expert_cls: TypeError: ",
    ),
    "an optimizer group of nothing": (
        lambda e: e["train"]["optim"].update(groups={"head": {"match": "haeds_"}}),
        "optim.groups.head.match: 'haeds_' matches no trainable parameter",
    ),
    "a parameter of two optimizer groups": (
        lambda e: e["train"]["optim"].update(
            groups={"one": {"match": "heads_"}, "two": {"match": "heads_emoji"}}
        ),
        "and so does group 'one'; make them differ",
    ),
    "a start of other settings": (
        lambda e: e.update(backbone={"name": "embedded_tiny", "features": 16}),
        "config.expert_cls: graft backbone/",
    ),
    "a rule that starts nothing": (
        lambda e: e.update(graft={"add": [["params/nothing/(.*)", r"backbone/params/\1"]]}),
        "config.expert_cls: graft: 'params/nothing/(.*)' matches none of the stage's arrays",
    ),
    "held-out data without a head": (
        lambda e: e.update(
            evaluators={
                "held": {
                    "fn": "intern_jax.stages.held_out:HeldOut",
                    "every": 5,
                    "data": {
                        "cls": {
                            "sources": [{"fn": EMBEDDED, "name": "furniture", "split": "test"}],
                            "transform": e["data"]["cls"]["transform"],
                        }
                    },
                }
            }
        ),
        "source 'furniture' has no head",
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize(("change", "message"), UNSEEN.values(), ids=UNSEEN)
def test_what_only_shapes_can_tell_is_told_before_the_first_stage_is_trained(
    tmp_path, change, message
):
    config = copy.deepcopy(QUICKSTART)
    config |= {"stages": ["amateur", "expert_cls"], "benchmark": None, "mesh": {"data": 1}}
    config["amateur"]["stage"]["text"] |= {"width": 16, "layers": 1, "heads": 2}
    config["backbone"] = {"name": "embedded_tiny"}
    change(config["expert_cls"])
    with pytest.raises(UserError) as caught:
        pipeline.run(config, tmp_path / "run")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list((tmp_path / "run").glob("seed0/*/checkpoints"))


def test_a_module_of_the_users_that_is_broken_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "users_broken.py").write_text("def transform(:\n")
    (tmp_path / "users_wrong.py").write_text("import numpy\nnumpy.nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, said in (("users_broken", "SyntaxError"), ("users_wrong", "wrong.py:2")):
        config = copy.deepcopy(QUICKSTART)
        group(config)["transform"] = {"fn": f"{name}:transform"}
        with pytest.raises(UserError, match="cannot be imported") as caught:
            pipeline.check(config)
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_none_says_random_weights_aloud():
    config = copy.deepcopy(QUICKSTART)
    for start in ({}, None, {"backbone": None}):
        config["expert_cls"]["start"] = start
        assert pipeline.check(config)["expert_cls"]["start"] == {"backbone": None}


def test_what_matters_leaves_out_what_changes_no_array():
    entry = pipeline.check(QUICKSTART)["amateur"]
    matters = settings_lib.matter(entry)
    assert matters["train"].keys() == {
        *("steps", "optim", "accumulate", "ema_decay", "max_bad_steps", "spike"),
    }
    assert not {"start", "evaluators", "backbone"} & matters.keys()
    assert matters["data"]["pairs"]["sources"][0]["weight"] == 0.7


def test_optimizer_groups_take_what_they_do_not_say_from_the_main_one():
    config = copy.deepcopy(QUICKSTART)
    optim(config)["groups"] = {"head": {"match": "heads_.*", "clip_norm": 0.5}}
    made = pipeline.check(config)["expert_cls"]["train"]["optim"]
    assert made["groups"]["head"] == {
        **{name: value for name, value in made.items() if name != "groups"},
        "clip_norm": 0.5,
        "match": "heads_.*",
    }


def test_the_command_line_may_set_a_field_that_the_config_leaves_out(capsys):
    command = ["inspect", "--config=quickstart"]
    fields = ["--config.amateur.train.keep_every=50", "--config.amateur.train.spike={'window': 9}"]
    assert cli.main([*command, *fields]) == 0
    said = capsys.readouterr().out
    assert "amateur.train.keep_every = 50" in said and "amateur.train.spike.sigmas = 6.0" in said
    assert cli.main([*command, "--config.amateur.train.keep_evry=50"]) == 2
    assert "train.keep_evry: no such field; did you mean keep_every" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["gvb"])
def test_the_benchmarks_own_config_is_checked_too(config):
    from intern_jax.benchmark.settings import Gvb

    given = plain(load_config(config))
    made = schema.checked(Gvb, given, "config")
    assert made["lists"] is None and schema.checked(Gvb, made, "config") == made
    given["heads"]["kitti"]["depth"]["cfg"]["optim"]["momentun"] = 0.5
    with pytest.raises(
        UserError, match=r"config\.heads\.kitti\.depth\.cfg\.optim\.momentun: no su"
    ):
        schema.checked(Gvb, given, "config")


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", ["batch size missing", "zero-shot by an unknown stage", "a mesh axis of 0"]
)
def test_a_mistake_ends_the_command(name, tmp_path):
    """The whole way once for a few: exit code 2, one line, nothing trained."""
    config, (_, message) = copy.deepcopy(QUICKSTART), MISTAKES[name]
    MISTAKES[name][0](config)
    path = tmp_path / "bad.py"
    path.write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({config!r})\n"
    )
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "intern_jax", "run", f"--config={path}"]
    done = subprocess.run(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr
    assert "Traceback" not in done.stderr and not workdir.exists()


def test_a_late_fields_default_leaves_no_trace_in_dumps_and_digests():
    """Records and stages from before the field was there keep their keys."""

    class Made(schema.Settings):
        old: int = 1
        late: list[int] = schema.field([], late=True)

    class Outer(schema.Settings):
        inner: Made = Made()

    for given, dumped in (({}, {"old": 1}), ({"late": [2]}, {"old": 1, "late": [2]})):
        whole = Outer.model_validate({"inner": given})
        assert whole.model_dump() == schema.mattering(whole) == {"inner": dumped}
