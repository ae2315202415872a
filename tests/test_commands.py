"""Every command that the program's help, the README and the documents show is one that the program takes.

Each runs through the command line as a shell gives it: flags are parsed, values are read, configs are checked with all
their defaults. Where the work behind a verb takes long, it ends there: a stand-in with the same parameters takes its
place, and checks what it is given as the real function does first. What takes seconds runs whole: the steps of `data`
one after another, and `inspect` (and tests/test_readme.py: `adapt` with its Python).
"""

import argparse
import functools
import pathlib
import re
import shlex
import subprocess

import numpy as np
import PIL.Image
import pytest

from intern_jax import __main__ as cli
from intern_jax import pipeline
from intern_jax.adapt import folder as adapt_folder
from intern_jax.benchmark import evaluation, named
from intern_jax.benchmark.rows import suite
from intern_jax.benchmark.settings import Gvb
from intern_jax.core import config as config_lib
from intern_jax.core import schema
from intern_jax.curation import pipeline as data_pipeline
from intern_jax.models.heads import readout
from intern_jax.topology import compile as topology
from intern_jax.verbs import adapt, arguments, data
from intern_jax.weights.published import convert

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "examples" / "README.md"]
MODULE = ["python", "-m", "intern_jax"]
VERBS = (*cli.VERBS, *(f"data {step}" for step in (*data.STEPS, "run")))
# Words that stand for something of the reader's, and one such thing.
MEANT = {
    "FILE": "quickstart",
    "FOLDER": "folder",
    "MODEL": "MODEL",
    "NAME": "name",
    "R,G,B": "0.5,0.4,0.3",
    "PIXELS": "64",
    "SHARE": "0.9",
    "INIT": "embedded_tiny",
    "N": "2",
    "...": "pooled",
}
# The same where a verb takes something else.
MEANT_OF = {"data run": {"FILE": "wide_world"}}
# The form of a flag, and no example of one.
FORMS = ("FIELD", "field", "NAME", "a.b")
# The least that each verb needs beside the flag that is shown.
LEAST = {
    "run": ["--config=quickstart", "--workdir=w"],
    "adapt": ["--data=pictures", "--out=o"],
    "benchmark": ["--workdir=w"],
    "inspect": ["--model=embedded_tiny"],
    "convert": ["--from=a.pth", "--out=o"],
    "data pack": ["--data=pictures", "--out=o"],
    "data run": ["--config=wide_world", "--workdir=w"],
    **{f"data {step}": ["--pool=p", "--out=o"] for step in data.STEPS if step != "pack"},
    "data agreement": ["--pool=p", "--out=o", "--model=MODEL"],
}


# --- what is shown --------------------------------------------------------------------------------


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every verb, and of every step of `data`."""

    def inside(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
        (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        return dict(verbs.choices)

    found = inside(cli.build_parser())
    return found | {f"data {step}": one for step, one in inside(found["data"]).items()}


def flags_of_help() -> list[tuple[str, str]]:
    """(verb, flag with a value) of what every `--help` shows, beside the flags' own names."""
    found = []
    for verb, parser in parsers().items():
        texts = [parser.description, parser.epilog, *(action.help for action in parser._actions)]
        for text in filter(None, texts):
            for flag in flags(text):
                before = text.partition(flag)[0].split()[
                    -1:
                ]  # "inspect --model=..." names another verb
                found.append((before[0] if before and before[0] in VERBS else verb, flag))
    return found


def flags(text: str) -> list[str]:
    """Every --NAME=VALUE of a text, with its quotes."""
    value = r"""(?:"[^"]*"|'[^']*'|[^\s"'`;)]*[^\s"'`;),.])"""
    found = re.findall(rf"(?<![\w-])--[\w.-]+={value}", text)
    return [
        flag
        for flag in found
        if not any(f".{form}=" in flag or f"--{form}=" in flag for form in FORMS)
    ]


def commands(page: pathlib.Path) -> list[str]:
    """The commands of a page: lines of its blocks, with those that a backslash continues, and spans of its text."""
    text = page.read_text("utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language in ("", "bash")]
    blocks += re.findall(
        r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    short = rf"(?:{'|'.join(cli.VERBS)}) (?:\w+ )?--(?:list|table|[\w-]+=.*)"
    lines += [" ".join([*MODULE, span]) for span in spans if re.fullmatch(short, span)]
    lines += [span for span in spans if span.startswith(" ".join(MODULE))]
    return [line.strip() for line in lines if " ".join(MODULE) in line]


def shortened(page: pathlib.Path) -> list[str]:
    """The commands among them that are spans without `python -m intern_jax`."""
    text = page.read_text("utf-8")
    return [
        line
        for line in commands(page)
        if f"`{line.removeprefix(' '.join(MODULE)).strip()}`" in text
    ]


def flags_of_pages() -> list[tuple[str, str]]:
    """(page, flag with a value) of what the text of a page shows by itself."""
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        spans = [span for span in re.findall(r"`([^`\n]+)`", text) if span.startswith("--")]
        found += [(page.name, flag) for span in spans for flag in flags(span)]
    return sorted(set(found))


COMMANDS = sorted({(page.name, line) for page in PAGES for line in commands(page)})
SHORT = {line for page in PAGES for line in shortened(page)}


# --- how it is run --------------------------------------------------------------------------------


def words_of(line: str) -> list[str]:
    """The words behind `python -m intern_jax` as a shell gives them."""
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0, line
    words = shlex.split(line, comments=True)
    start = next(i for i in range(len(words)) if words[i : i + 3] == MODULE)
    words = words[start + 3 :]
    return [meant(word, verb_of(words)) for word in words]


def verb_of(words: list[str]) -> str:
    """The verb, or the step of `data`, that words begin with."""
    return " ".join(words[:2]) if words[0] == "data" else words[0]


def meant(word: str, verb: str) -> str:
    """A word with what stands for something of the reader's replaced."""
    flag, equals, value = word.partition("=")
    known = MEANT | MEANT_OF.get(verb, {})
    return f"{flag}={known[value]}" if equals and value in known else word


def completed(words: list[str]) -> list[str]:
    """A command that a sentence shortens, with the least that its verb needs."""
    names = {word.partition("=")[0] for word in words}
    verb = verb_of(words)
    missing = [one for one in LEAST[verb] if one.partition("=")[0] not in names]
    alternative = {"--pool=p"} if "--data" in names else set()
    alternative |= {"--model=embedded_tiny"} if names & {"--config", "--checkpoint"} else set()
    return [*words, *(one for one in missing if one not in alternative)]


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """The functions that verbs reached, in order: stand-ins that check what they are given, and do no more."""
    found: list[str] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "folder").mkdir()

    def stand_in(module, name, check=lambda **_: None, answer=None):
        real = getattr(module, name)

        @functools.wraps(real)
        def taken(*given, **named):
            bound = config_lib.inspect.signature(real).bind(*given, **named)
            bound.apply_defaults()
            check(**bound.arguments)
            found.append(name)
            return answer

        monkeypatch.setattr(module, name, taken)

    def checked_config(config, **_):
        pipeline.check(config_lib.plain(config))

    def checked_knobs(**given):
        adapt_folder.Knobs.checked(given)
        readout.parse(given["readout"] or "pooled")

    def checked_benchmark(config, **_):
        schema.checked(Gvb, config, "config")

    stand_in(pipeline, "run", checked_config, {"table": ""})
    stand_in(adapt_folder, "adapt_folder", checked_knobs, {})
    for name in ("evaluate", "score_boxes"):
        stand_in(evaluation, name, checked_benchmark, "")
    stand_in(evaluation, "tables", answer="")
    stand_in(named, "score", checked_benchmark, "")
    stand_in(named, "retrieve", answer="")
    stand_in(convert, "convert", answer="")
    stand_in(topology, "inspect", answer="")
    stand_in(data_pipeline, "run")
    monkeypatch.setattr(data, "_runner", lambda args: args.runner)  # Beam is an extra
    for function, *_ in data.STEPS.values():
        module, _, name = function.partition(":")
        stand_in(config_lib.importlib.import_module(module), name, answer="")
    return found


def run(argv: list[str], capsys) -> None:
    try:
        code = cli.main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 0, (argv, capsys.readouterr().err)


def full(verb: str, flag: str) -> list[str]:
    """A command of the verb with the flag, without what the flag replaces."""
    (word,) = shlex.split(flag)
    word = meant(word, verb)
    least = [one for one in LEAST[verb] if one.partition("=")[0] != word.partition("=")[0]]
    if verb == "inspect" and word.startswith(("--config=", "--checkpoint=")):
        least = []
    return [*verb.split(), *least, word]


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_a_page_is_taken(page, line, reached, capsys, monkeypatch):
    words = words_of(line)
    if words[0] == "inspect" and "--topology" not in line:
        # A folder that `adapt` made is needed for a checkpoint's; test_readme.py makes it.
        if "--checkpoint" in line:
            parsers()["inspect"].parse_args(words[1:])
        else:
            run(words, capsys)
        return
    if "--list" in words:
        monkeypatch.setattr(suite, "listing", lambda *_: reached.append("listing"))
    run(completed(words) if line in SHORT else words, capsys)
    # Of data that is no pool yet, a step packs it first.
    first = ["pack"] if words[0] == "data" and words[1] != "pack" and "--data=" in line else []
    assert reached[:-1] == first, page


@pytest.mark.parametrize(("verb", "flag"), sorted(set(flags_of_help())))
def test_a_flag_that_help_shows_is_taken(verb, flag, reached, capsys):
    assert subprocess.run(["bash", "-n", "-c", f"true {flag}"], check=False).returncode == 0
    run(full(verb, flag), capsys)
    assert reached or verb == "inspect"


@pytest.mark.medium
@pytest.mark.parametrize(("page", "flag"), flags_of_pages())
@pytest.mark.usefixtures("reached")
def test_a_flag_that_a_page_shows_is_taken_by_a_verb(page, flag, capsys):
    assert subprocess.run(["bash", "-n", "-c", f"true {flag}"], check=False).returncode == 0
    taken = []
    for verb in LEAST:
        try:
            if cli.main(full(verb, flag)) == 0:
                taken.append(verb)
        except SystemExit:
            continue
    capsys.readouterr()
    assert taken, f"{page}: no verb takes {flag}"


def test_there_are_examples_of_every_verb():
    shown = {words_of(line)[0] for _, line in COMMANDS}
    assert shown == set(cli.VERBS)
    assert len(COMMANDS) > 25 and len(flags_of_help()) > 25 and len(flags_of_pages()) > 15


def test_adapt_s_help_lists_every_setting_with_its_default():
    defaults = config_lib.defaults(adapt_folder.adapt_folder)
    named = {name: default for of in adapt.KNOBS.values() for name, (default, *_) in of.items()}
    assert named == {n: v for n, v in defaults.items() if n not in ("init", "method")} | {
        "folds": defaults["folds"]
    }
    text = " ".join(parsers()["adapt"].format_help().split())
    for name, default in named.items():
        assert f"--{name.replace('_', '-')} " in text
        assert default is None or f"(default: {default})" in text
    grid, (first, *_, last) = adapt_folder.GRID, adapt_folder.GRID
    assert f"(default: {len(grid)} from {first:g} to {last:g})" in text
    assert f"(default: {adapt_folder.READOUT})" in text
    assert f"(default: 64, with boxes {adapt_folder.boxes.BATCH})" in text
    assert f"(default: {adapt_folder.boxes.HEAD})" in text


@pytest.mark.parametrize(
    "more",
    [
        ["--steps", "7", "--learning-rate", "1e-2", "--flip", "False", "--l2", "0.1"],
        ["--steps=7", "--learning-rate=1e-2", "--flip=False", "--l2=0.1"],
        ["--steps=7", "--learning_rate", "0.01", "--flip=False", "--l2=[0.1]"],
    ],
)
def test_a_value_may_be_a_word_of_its_own(more, monkeypatch):
    seen = {}

    def fake(data, init, out, method, steps, learning_rate, flip, l2):
        seen.update(locals())
        return {}

    monkeypatch.setattr(adapt_folder, "adapt_folder", fake)
    assert cli.main(["adapt", "--data=d", "--out=o", *more]) == 0
    assert (seen["steps"], seen["learning_rate"], seen["flip"]) == (7, 0.01, False)
    assert seen["l2"] in (0.1, [0.1])


def test_an_override_s_value_may_be_a_word_of_its_own():
    given = ["--config.seeds", "1", "--config.a.b=-2", "--config.c", "-3"]
    assert arguments.config_overrides(given) == ["seeds=1", "a.b=-2", "c=-3"]
    with pytest.raises(config_lib.UserError, match="do not know 'extra'"):
        arguments.config_overrides(["--config.seeds", "1", "extra"])
    with pytest.raises(config_lib.UserError, match="--steps has no value; write --steps=VALUE"):
        arguments.keyword_arguments(["--steps", "--flip=True"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--config=gvb", "--workdir=w"], "a config of `benchmark`, not of `run`; write: "),
        (["run", "--config=wide_world", "--workdir=w"], "a config of `data run`, not of `run`"),
        (["benchmark", "--config=quickstart", "--workdir=w"], "a config of `run`, not of"),
        (["data", "run", "--config=gvb", "--workdir=w"], "a config of `benchmark`, not of"),
        (["run", "--config=quickstart", "--workdir=w", "--config.seed=1"], "did you mean seeds"),
        (["benchmark", "--workdir=w", "--boxes=x"], "--boxes=x: write ROW=FILE.json"),
        (["benchmark", "--workdir=w", "--boxes=x=f.json"], "--boxes=x=f.json: no row 'x'"),
        (["benchmark", "--workdir=w", "--data=no"], "config.data (--data): none of"),
        (["benchmark", "--workdir=w", "--config.rows=pest"], "config.rows[0]: no row 'pest'"),
        (["benchmark", "--workdir=w", "--init=a", "--backbone=b:c"], "--init and --backbone exc"),
        (["data", "decontaminate", "--pool=p", "--out=o", "--rows=q"], "rows: no row 'q'"),
        (["adapt", "--data=d", "--out=o", "--learning-rate=nan"], "learning_rate: 'nan'; write a"),
        (["adapt", "--data=d", "--out=o", "--learning-rate=-1"], "learning_rate: -1"),
        (["adapt", "--data=d", "--out=o", "--steps=0"], "steps: 0; write a whole number of at"),
        (["adapt", "--data=d", "--out=o", "--steps", "4.5"], "steps: 4.5; write a whole number"),
        (["adapt", "--data=d", "--out=o", "--l2=0"], "l2"),
        (["adapt", "--data=d", "--out=o", "--flip=maybe"], "flip: 'maybe'; write True or False"),
    ],
)
def test_a_mistake_names_the_flag_or_field_that_is_wrong(argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and said in told, told


# --- whole ----------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures with texts, as the documents speak of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number, color in enumerate(((240, 240, 210), (200, 20, 40), (20, 90, 200), (30, 160, 60))):
        pixels = np.clip(np.array(color) + rng.normal(0, 60, (48, 48, 3)), 0, 255)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"pictures/{number}.png")
        (tmp_path / f"pictures/{number}.txt").write_text(f"picture number {number} of a colour\n")
    return tmp_path


# These read a model with a text tower, or WordNet.
NEED = ("--model=MODEL", "--wordnet", "--semantic")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "data.md"])
def test_the_steps_of_a_page_run_one_after_another(page, pictures, capsys):
    path = next(one for one in PAGES if one.name == page)
    steps = [words_of(line) for line in commands(path)]
    made = [words for words in steps if words[0] == "data" and words[1] != "run"]
    ran = [words for words in made if not any(need in " ".join(words) for need in NEED)]
    assert len(ran) >= 4
    if page == "data.md":  # what a step needs that only a text tower or WordNet could make
        ran = [[w.replace("mine/clean", "mine/unique") for w in words] for words in ran]
    for words in ran:
        if words[1] != "pack" and any(word.startswith("--data=") for word in words):
            # It says the same in one command, so it packs into a folder of its own.
            words = [word.replace("--out=mine", f"--out=mine/{words[1]}") for word in words]
        out = next(w for w in words if w.startswith("--out=")).removeprefix("--out=")
        run([*words, *([] if words[1] in data.ALONE else ["--workers=1"])], capsys)
        assert (pictures / out).exists()
