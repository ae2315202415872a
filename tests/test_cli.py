"""The command line: what reaches the functions behind the verbs, and how mistakes are told."""

import re
import subprocess
import sys

import jax.numpy as jnp
import ml_collections
import pytest

from intern_jax import __main__ as cli
from intern_jax import __version__, pipeline
from intern_jax.adapt import folder as adapt_folder
from intern_jax.core import digests
from intern_jax.train.checkpoint import Checkpoints


def fails(capsys, *argv: str) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    try:
        code = cli.main(argv)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2 and not out, (code, out, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_run_hands_the_overridden_config_to_the_pipeline(monkeypatch, tmp_path, capsys):
    seen = {}

    def fake(config, workdir):
        seen.update(config=config, workdir=workdir)
        return {"table": "the table"}

    monkeypatch.setattr(pipeline, "run", fake)
    argv = ["run", "--config=quickstart", f"--workdir={tmp_path}", "--config.amateur.train.steps=7"]
    assert cli.main(argv) == 0
    assert isinstance(seen["config"], ml_collections.ConfigDict)
    assert seen["config"].amateur.train.steps == 7 and seen["workdir"] == str(tmp_path)
    assert "the table" in capsys.readouterr().out


def test_adapt_hands_flags_over_and_prints_the_summary(monkeypatch, capsys):
    seen = {}

    def fake(data, init, out, method, steps=1, learning_rate=1e-3):
        seen.update(locals())
        return {"top1": 0.98765432, "classes": ["a"], "out": out}

    monkeypatch.setattr(adapt_folder, "adapt_folder", fake)
    argv = ["adapt", "--data=d", "--out=o", "--method=finetune", "--learning-rate=1e-2"]
    assert cli.main(argv) == 0
    assert seen["method"] == "finetune" and seen["init"] is None
    assert seen["learning_rate"] == 0.01 and seen["steps"] == 1
    assert capsys.readouterr().out == "top1: 0.9877\nout: o\n"
    assert "no argument 'stepz'; did you mean steps?" in fails(capsys, *argv, "--stepz=3")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "VERB"),
        (["fly"], "fly"),
        (["run"], "--config, --workdir"),
        (["run", "--config=quickstrat", "--workdir=w"], "did you mean quickstart"),
        (["run", "--config=none.py", "--workdir=w"], "no such file"),
        (["run", "--config=quickstart", "--workdir=w", "--config.amateur.stepz=1"], "stepz"),
        (["run", "--config=quickstart", "--workdir=w", "--config.seeds"], "--config.seeds"),
        (["run", "--config=quickstart", "--workdir=w", "--seed=1"], "--seed=1"),
        (["run", "--config=quickstart", "--workdir=w", "extra"], "extra"),
        (["adapt", "--data=nowhere", "--out=o"], "nowhere"),
        (["adapt", "--data=d", "--out=o", "--method=magic"], "magic"),
        (["inspect"], "--model"),
        (["inspect", "--model=mn_b5"], "mn_b5"),
        (["inspect", "--model=mn_b4", "--config=quickstart"], "not allowed with"),
        (["inspect", "--checkpoint=nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, argv, message):
    assert message in fails(capsys, *argv)


def test_inspect_model_tells_stages_parameters_cost_and_outputs(capsys):
    assert cli.main(["inspect", "--model=mn_b4"]) == 0
    out = capsys.readouterr().out
    (stage,) = [line for line in out.splitlines() if line.startswith("section 5")]
    assert stage.split()[2:8] == ["sa", "12", "384", "5", "2", "layer4"]
    assert "parameters      30,424,992" in out and "multiply-adds   3.16" in out
    assert "layer4  7 x 7 x 384" in out and "MB per picture" in out
    assert out.count("\n") < 30


def test_inspect_model_shows_the_network_inside_another(capsys):
    assert cli.main(["inspect", "--model=lifted"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # 256 x 512 + 512 for the features, and 128 x 256 + 256 for the last map.
    assert ["lift", "512", "256", "164,608"] in lines
    assert ["the", "network", "inside"] in lines
    # At the 32 pixels of the network inside.
    assert ["layer4", "4", "x", "4", "x", "256"] in lines and ["pooled", "512"] in lines


def test_inspect_config_tells_every_field_and_the_stages(capsys):
    assert cli.main(["inspect", "--config=quickstart", "--config.amateur.train.steps=7"]) == 0
    out = capsys.readouterr().out
    assert "amateur.train.steps = 7" in out and "stage generalist: starts from expert_cls" in out


def test_inspect_checkpoint_tells_the_run_its_data_and_every_digest(capsys, tmp_path):
    state = {"params": {"kernel": jnp.zeros((2, 3))}, "step": jnp.int32(5)}
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    run = {"train": {"steps": 9}, "versions": {"jax": "1.2.3"}}
    segments = [{"first_step": 0, "offset": 0}, {"first_step": 4, "offset": 6}]
    checkpoints.save(state, 5, {"run": run, "segments": segments, "graft": None})
    checkpoints.close()
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "5"):
        assert cli.main(["inspect", f"--checkpoint={path}"]) == 0
        out = capsys.readouterr().out
        assert "train.steps = 9" in out and 'versions.jax = "1.2.3"' in out
        assert 'data segment: {"first_step": 4, "offset": 6}' in out
        (line,) = [line for line in out.splitlines() if line.startswith("params/kernel")]
        assert line.split() == ["params/kernel", "2", "x", "3", "float32", digest_of(state)]
    (tmp_path / "checkpoints" / "5" / "meta" / "metadata").write_text("{}")
    said = fails(capsys, "inspect", f"--checkpoint={tmp_path}")
    assert "not the description of a checkpoint" in said


def digest_of(state):
    return f"{int(digests.digest(state['params']['kernel'])):08x}"


def test_version_and_help_from_a_shell():
    command = [sys.executable, "-m", "intern_jax"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == __version__
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and all(v in done.stdout for v in ("run", "adapt", "inspect"))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(28, "No space left on device", "/w/seed0/a/done.json"),
            75,
            "No space left .*done.json",
        ),
        (MemoryError("Unable to allocate 8 GiB"), 75, "8 GiB; start again to resume"),
        (ValueError("UNAVAILABLE: [OS error 116: Stale file handle]"), 75, "Stale file handle"),
    ],
)
def test_a_fault_of_the_machine_ends_a_run_restartable(
    tmp_path, monkeypatch, capsys, error, code, said
):
    def run(*_args):
        raise error

    monkeypatch.setattr("intern_jax.pipeline.run", run)
    assert cli.main(["run", "--config=configs/quickstart.py", f"--workdir={tmp_path}"]) == code
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and re.search(f"^error: .*{said}", told[0]), told


def test_a_fault_of_the_program_is_no_fault_of_the_machine(tmp_path, monkeypatch):
    def run(*_args):
        raise ValueError("the program's own")

    monkeypatch.setattr("intern_jax.pipeline.run", run)
    with pytest.raises(ValueError, match="own"):
        cli.main(["run", "--config=configs/quickstart.py", f"--workdir={tmp_path}"])


@pytest.mark.parametrize("verb", ["run", "benchmark"])
@pytest.mark.parametrize("workdir", ["gs://bucket/run", "s3://bucket/run", "gs:/bucket/run"])
def test_a_workdir_in_object_storage_is_refused_before_any_work(
    tmp_path, monkeypatch, capsys, verb, workdir
):
    monkeypatch.chdir(tmp_path)
    config = "quickstart" if verb == "run" else "gvb"
    assert cli.main([verb, f"--config={config}", f"--workdir={workdir}"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and f"workdir: {workdir} is no folder of this machine; mount" in told[0]
    assert not list(tmp_path.iterdir())
