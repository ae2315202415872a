"""What the scalars of a run are: said where they are made, kept through the compiled step, written beside them."""

import json
import types

import jax
import jax.numpy as jnp
import pytest
from toy import Linear, Stream, settings

from intern_jax.core import averages, scalars
from intern_jax.core.averages import described, mean
from intern_jax.core.mesh import make_mesh
from intern_jax.core.scalars import Scalar
from intern_jax.train import loop
from intern_jax.train.evaluation import Evaluation
from intern_jax.train.progress.outputs import Outputs

ERROR = Scalar("measure", "mean error", "m", higher_is_better=False, of="rooms")


class Telling(Linear):
    """The toy stage, with a described metric beside the one of which nothing is said."""

    def loss(self, context):
        terms, (extra, metrics) = super().loss(context)
        size = mean(jnp.abs(context.params["head"]["kernel"]))
        return terms, (extra, {**metrics, "told": described(size, ERROR)})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_step_returns_what_its_scalars_are(accumulate, tmp_path):
    trained = loop.fit(Telling(), Stream(), settings(accumulate=accumulate), make_mesh(), tmp_path)
    about = scalars.read(tmp_path / "scalars.json")
    assert about["told"] == ERROR
    assert {about[name].kind for name in ("loss", "square", "size")} == {"loss"}
    for name in ("learning_rate", "gradient_norm", "bad_total", "images_per_second", "data_wait"):
        assert about[name].kind == "run"
    # Of a metric that says nothing, nothing is said.
    assert set(trained.history[-1]) - set(about) == {"step", "error"}


def test_averages_keep_what_they_are_when_they_merge_and_compile():
    one, two = (described(mean(jnp.array(values)), ERROR) for values in ([1.0, 2.0], [6.0]))
    merged = averages.merge({"a": one}, {"a": two})["a"]
    assert float(averages.value(merged)) == 3.0 and averages.about(merged) == ERROR
    made = jax.jit(lambda average: average)(one)
    assert averages.about(made) == ERROR and averages.about(mean(jnp.ones(2))) is None


def test_outputs_are_to_jax_what_a_dict_is():
    values = {"b": jnp.ones(()), "a": jnp.zeros(())}
    outputs = Outputs(values, {"a": scalars.TERM})
    # The names are in compiled programs: with other names, no program that was kept would be found again.
    paths = [
        [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(one)[0]]
        for one in (outputs, values)
    ]
    assert paths[0] == paths[1] == ["['a']", "['b']"]
    doubled = jax.tree.map(lambda x: 2 * x, outputs)
    assert isinstance(doubled, Outputs) and float(doubled["b"]) == 2
    assert doubled.about == outputs.about and len(doubled) == 2


class Measure:
    """An evaluator that says what it measures."""

    def __init__(self):
        self.about = {"pets/top1": scalars.share("top-1", "pets"), "seen": scalars.share("seen")}

    def __call__(self, _variables):
        return {"pets/top1": 0.5, "seen": 1.0}


def test_evaluations_say_what_they_measure_and_plain_functions_nothing(tmp_path):
    evaluations = [
        Evaluation("held_out", Measure(), every=3),
        Evaluation("plain", lambda _: {"x": 1.0}, every=3),
    ]
    loop.fit(Linear(), Stream(), settings(), make_mesh(), tmp_path, evaluations=evaluations)
    about = scalars.read(tmp_path / "scalars.json")
    assert about["held_out/pets/top1"] == scalars.share("top-1", "held_out/pets")
    assert about["held_out/seen"].of == "held_out" and "plain/x" not in about
    # They go to the same plot as the training's own measure of that title.
    assert about["held_out/pets/top1"].title == "top-1"


def test_descriptions_of_an_earlier_part_of_the_run_stay(tmp_path):
    evaluation = [Evaluation("held_out", Measure(), every=1)]
    run = types.SimpleNamespace(stream=Stream(), mesh=make_mesh())
    loop.fit(Linear(), run.stream, settings(steps=2), run.mesh, tmp_path, evaluations=evaluation)
    loop.fit(Linear(), run.stream, settings(steps=4), run.mesh, tmp_path)
    about = json.loads((tmp_path / "scalars.json").read_text())
    assert "held_out/seen" in about and about["loss"]["kind"] == "loss"


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="loss, measure, state, run"):
        Scalar("accuracy")
