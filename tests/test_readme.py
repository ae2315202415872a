"""The README's commands and examples work as they are written."""

import pathlib
import re
import shlex

import numpy as np
import PIL.Image
import pytest

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.core import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def verbs(name: str) -> list[list[str]]:
    start = ["python", "-m", "intern_jax", name]
    return [words[3:] for words in commands() if words[:4] == start]


def test_every_command_is_make_or_the_module():
    module = ["python", "-m", "intern_jax"]
    assert all(words[0] == "make" or words[:3] == module for words in commands())
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {words[1] for words in commands() if words[0] == "make"} <= set(targets)


@pytest.mark.parametrize("argv", verbs("run"), ids=" ".join)
def test_run_s_config_loads_and_is_what_make_runs(argv):
    args = cli.build_parser().parse_args(argv)
    config_lib.load_config(ROOT / args.config)
    assert " ".join(argv) in (ROOT / "Makefile").read_text()


def test_the_override_named_in_the_text_is_a_field_of_quickstart():
    (override,) = re.findall(r"`--config\.([^`]*=[^`]*)`", README)
    config_lib.override(config_lib.load_config("quickstart"), [override])


@pytest.mark.parametrize("argv", verbs("inspect")[:2], ids=" ".join)
def test_inspect_answers(argv, capsys):
    assert cli.main(argv) == 0
    assert len(capsys.readouterr().out) > 200


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """The pictures that the README speaks of: two classes that differ in colour."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, color in (("daisy", (240, 240, 210)), ("rose", (200, 20, 40))):
        folder = tmp_path / "flowers" / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(np.array(color) + rng.normal(0, 25, (40, 40, 3)), 0, 255)
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    return tmp_path / "flowers"


@pytest.mark.medium
@pytest.mark.usefixtures("flowers")
def test_a_folder_of_one_s_own_from_adapt_to_predict(capsys):
    (argv,) = verbs("adapt")
    assert cli.main(argv) == 0
    names: dict = {}
    (example,) = blocks("python")
    exec(example, names)
    assert names["answer"]["label"] == "daisy"
    assert len(names["both"]) == len(intern_jax.pictures("flowers")) == 16
    assert [len(answer["scores"]) for answer in names["both"]] == [1] * 16
    assert names["features"].shape[0] == 2 and names["features"].dtype == np.float32
    assert cli.main(verbs("inspect")[2]) == 0
    assert "daisy" in capsys.readouterr().out
    assert intern_jax.load("flowers_model").classes == ("daisy", "rose")
