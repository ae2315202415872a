"""`load` of what is no model folder: one line says what it could mean, and asks for no file to be deleted."""

import pytest
from small_models import save

import intern_jax


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", r"resnet50: .*network of the zoo.*convert --from=FILE --model=resnet50 --out"),
        ("resnet5O", "resnet5O: no such folder; did you mean .*the network resnet50"),
        ("animols", "animols: no such folder; did you mean the folder animals"),
        ("xyzzy", "xyzzy: no such folder; a model folder has model.json in it"),
    ],
)
def test_a_name_that_is_no_folder_is_told_what_it_could_mean(tmp_path, monkeypatch, name, message):
    save(tmp_path / "animals")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(intern_jax.UserError, match=message):
        intern_jax.load(name)


def test_no_folder_of_other_things_is_told_to_lose_its_files(tmp_path):
    """Its owner has another use for them: a checkpoint of PyTorch, a script, a model of TensorFlow.js."""
    torch, script, web = (tmp_path / name for name in ("torch", "script", "web"))
    for path in (torch, script, web):
        path.mkdir()
    (torch / "pytorch_model.bin").write_bytes(b"weights")
    (script / "train.py").write_text("print(1)")
    (web / "model.json").write_text('{"format": "layers-model", "weightsManifest": []}')
    (web / "group1-shard1of1.bin").write_bytes(b"weights")
    (web / "weights.safetensors").write_bytes(b"weights")
    messages = {}
    for path in (torch, script, web):
        with pytest.raises(intern_jax.UserError) as error:
            intern_jax.load(path)
        messages[path.name] = str(error.value)
        assert not any(word in messages[path.name] for word in ("remove", "delete", "move"))
    assert "no model folder" in messages["torch"] and "intern_jax convert" in messages["torch"]
    assert "no model folder" in messages["script"] and "convert" not in messages["script"]
    assert "format is 'layers-model'" in messages["web"]


def test_folders_of_a_run_lead_to_its_models(tmp_path):
    stage = tmp_path / "seed0" / "generalist"
    stage.mkdir(parents=True)
    (stage / "done.json").write_text("{}")
    (stage / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(
        intern_jax.UserError, match="of a stage, and the run's own model is in"
    ) as e:
        intern_jax.load(stage)
    assert "convert" not in str(e.value)
    save(tmp_path / "model")
    save(tmp_path / "towers" / "amateur")
    with pytest.raises(intern_jax.UserError) as e:
        intern_jax.load(tmp_path)
    assert str(e.value).endswith(f"{tmp_path / 'model'}, {tmp_path / 'towers' / 'amateur'}")


def test_a_file_and_a_folder_of_models_are_told_apart(tmp_path):
    save(tmp_path / "runs" / "animals")
    with pytest.raises(
        intern_jax.UserError, match=r"no model folder; .*those in it: .*runs/animals"
    ):
        intern_jax.load(tmp_path / "runs")
    (tmp_path / "a.pth").write_bytes(b"weights")
    with pytest.raises(intern_jax.UserError, match=r"a file.* convert --from=.*a\.pth"):
        intern_jax.load(tmp_path / "a.pth")
