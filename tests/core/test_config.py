"""Configs: names resolve, arguments bind, overrides keep types; each mistake is one line."""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys

import ml_collections
import pytest

from intern_jax.core import config as config_lib
from intern_jax.core.config import UserError


def example():
    return ml_collections.ConfigDict(
        {"optim": {"learning_rate": 0.5, "steps": 3}, "sizes": (8, 16), "flip": True, "init": None}
    )


def said(function, *arguments):
    """What a mistake is answered with."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_a_message_is_one_line():
    assert str(UserError("two\n  lines")) == "two lines"


def test_resolve():
    assert config_lib.resolve("os.path:join") is os.path.join


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.path:jion", "'os.path:jion': os.path has no 'jion'; did you mean join"),
        ("os.pth:join", "'os.pth:join': no module 'os.pth'"),
        ("os.path.join", "'os.path.join': not the name of a function; write package.module:func"),
        (".relative:join", "not the name of a function"),
        ("os.path:", "not the name of a function"),
    ],
)
def test_unknown_names(name, message):
    assert message in said(config_lib.resolve, name)


def test_bind_leaves_missing_arguments_to_the_caller():
    bound = config_lib.bind({"fn": "difflib:get_close_matches", "n": 1})
    assert bound("aple", ["apple", "ape"]) == ["apple"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"fn": "difflib:get_close_matches", "cutof": 1},
            "difflib:get_close_matches: no argument 'cutof'; did you mean cutoff?",
        ),
        ({"n": 1}, "names no function; write fn: package.module:function"),
        (None, "None: names no function"),
        ({"fn": "os:sep"}, "'os:sep': not a function or class"),
    ],
)
def test_bind_refuses(spec, message):
    assert message in said(config_lib.bind, spec)


def test_shipped_configs_load_by_name_and_by_path():
    by_name = config_lib.load_config("quickstart")
    by_path = config_lib.load_config(config_lib.shipped_configs() / "quickstart.py")
    assert config_lib.digest(by_name) == config_lib.digest(by_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", ":1: SyntaxError: invalid syntax"),
        ("\nimport no_such_module\n", ":2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    return 1 / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("def get_config():\n    return 3\n", ": get_config() returns int; return an ml_coll"),
        ("x = 1\n", ": defines no get_config(); add one"),
    ],
)
def test_a_config_file_with_a_mistake(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert said(config_lib.load_config, path).startswith(f"{path}{message}")


def test_a_config_that_is_not_there(tmp_path):
    assert "did you mean quickstart?" in said(config_lib.load_config, "quikstart")
    assert "no such file" in said(config_lib.load_config, tmp_path / "mine.py")


def test_override_keeps_the_kind_of_a_field():
    assignments = ["optim.learning_rate=1", "sizes=[4]", "flip=False", "init=runs/a"]
    config = config_lib.override(example(), assignments)
    assert config.optim.learning_rate == 1.0 and isinstance(config.optim.learning_rate, float)
    assert config.sizes == (4,) and config.flip is False and config.init == "runs/a"


def test_override_keeps_text_and_fills_an_empty_group():
    config = ml_collections.ConfigDict({"name": "a", "group": {}})
    config_lib.override(config, ["name=123", "group={'steps': 3}", "group.steps=4"])
    assert config_lib.plain(config) == {"name": "123", "group": {"steps": 4}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.step=4", "config.optim.step: no such field; did you mean steps?"),
        ("optm.steps=4", "config.optm: no such field; did you mean optim?"),
        ("optim.steps.x=4", "config.optim.steps.x: no such field"),
        ("optim=4", "config.optim: is a group of fields; set one of learning_rate, steps"),
        ("optim.steps=4.5", "config.optim.steps: '4.5' is float; write int, such as 3"),
        ("optim.steps=True", "config.optim.steps: 'True' is bool; write int, such as 3"),
        ("optim={'steps': 4}", "config.optim: is a group of fields; set one of"),
        ("optim.learning_rate={'a': 1}", "config.optim.learning_rate: \"{'a': 1}\" is dict; write"),
        ("flip=1", "config.flip: '1' is int; write bool, such as True"),
        ("flip", "--config.flip: no value; write --config.flip=VALUE"),
    ],
)
def test_override_refuses(assignment, message):
    config = example()
    assert message in said(config_lib.override, config, [assignment])
    assert config_lib.plain(config) == config_lib.plain(example())


def test_digest_is_of_values_in_any_order():
    assert config_lib.digest({"b": (1, 2), "a": None}) == config_lib.digest(
        {"a": None, "b": [1, 2]}
    )
    expected = hashlib.sha256(b'{"a":1,"b":"x"}').hexdigest()
    assert config_lib.digest({"b": "x", "a": 1}) == expected
    assert config_lib.digest(example()) != config_lib.digest({})


def test_plain_refuses_what_cannot_be_written():
    @dataclasses.dataclass
    class Segment:
        seed: int

    assert config_lib.plain({"s": (Segment(3),)}) == {"s": [{"seed": 3}]}
    assert "is not a plain value" in said(config_lib.plain, {"loss": len})


def test_diff_names_each_field_that_changed():
    changed = config_lib.override(example(), ["optim.learning_rate=0.25", "sizes=(8,)"])
    del changed["init"]
    assert config_lib.diff(example(), example()) == []
    assert config_lib.diff(example(), changed) == [
        "init: null -> absent",
        "optim.learning_rate: 0.5 -> 0.25",
        "sizes: [8, 16] -> [8]",
    ]


BESIDE = """
import ml_collections
from {module} import SIZE

def get_config():
    return ml_collections.ConfigDict({{"size": SIZE, "fn": "{module}:area"}})
"""


def write_beside(folder, module):
    (folder / f"{module}.py").write_text("SIZE = 3\n\ndef area(size): return size**2\n")
    (folder / "mine.py").write_text(BESIDE.format(module=module))
    return folder / "mine.py"


def test_a_config_finds_the_modules_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    config = config_lib.load_config(write_beside(tmp_path, "beside_a"))
    assert config_lib.bind(config)() == 9
    config_lib.load_config(tmp_path / "mine.py")
    assert sys.path == [str(tmp_path), *before]
    sys.path[:] = before
    config_lib.load_config("quickstart")
    config_lib.load_config(config_lib.shipped_configs() / "quickstart.py")
    assert sys.path == before


def test_the_installed_script_finds_what_python_m_finds(tmp_path):
    """A console script's sys.path begins with its own folder (-P: with none), not with the working directory."""
    write_beside(tmp_path, "beside_b")
    code = (
        "import sys; from intern_jax import __main__ as m; "
        "m.main = lambda: print(__import__('beside_b').area(4)); m.program()"
    )
    root = str(pathlib.Path(config_lib.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "16\n", done.stderr


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seeds=1", (1,)),
        ("seeds=1,2", (1, 2)),
        ("seeds=[1]", (1,)),
        ("rows=pets", ("pets",)),
        ("rows=", ()),
        ("seeds=()", ()),
        ("shares=0.5", [0.5]),
        ("shares=(0.5,)", [0.5]),
    ],
)
def test_one_value_of_a_field_of_several_is_a_tuple_of_one(assignment, expected):
    made = ml_collections.ConfigDict({"seeds": (0,), "rows": (), "shares": [0.1]})
    found = config_lib.override(made, [assignment])[assignment.partition("=")[0]]
    assert found == expected and type(found) is type(expected)
