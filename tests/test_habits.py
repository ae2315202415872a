"""By hand, at a commit and on a hosted runner a change passes the same commands; make builds what they need."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The versions that the classifiers name.
VERSIONS = [
    found[1]
    for text in PROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
]


# --- the hosted runner -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workflow() -> dict:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    content = yaml.safe_load(text)
    return content | {"on": content.pop(True)}  # YAML 1.1 reads the key `on` as true


def test_the_hosted_runner_runs_the_commands_of_ci_run(workflow):
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    *_, local = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands == ["make lint", "make test", "make test-medium", "make test-beam"]
    assert local == "exec make lint test test-medium test-beam"
    assert set(workflow["on"]) == {"push", "pull_request"}


def test_the_hosted_runner_takes_every_version_that_the_package_names(workflow):
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"] == {"python": VERSIONS}
    assert PROJECT["project"]["requires-python"] == f">={VERSIONS[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + VERSIONS[0].replace(".", "")
    (python,) = (step["with"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert python["python-version"] == "${{ matrix.python }}" and python["cache"] == "pip"
    kept = python["cache-dependency-path"].split()
    assert kept and all(list(ROOT.glob(pattern)) for pattern in kept)


def test_the_hosted_runner_only_reads_and_ends(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90 and "permissions" not in job


# --- the hooks of a commit ---------------------------------------------------------------------


def test_the_hooks_download_nothing_and_are_lint_s_commands():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repo,) = config["repos"]
    assert repo["repo"] == "local" and {hook["language"] for hook in repo["hooks"]} == {"system"}
    lint = [line.replace(" .", "") for line in planned("lint") if "ruff" in line]
    hooks = [hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]]
    assert hooks == lint


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
    """A git repository with the hooks installed, whose .venv/bin/ruff is this environment's."""
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "ruff").symlink_to(tool("ruff"))
    for name in ("pyproject.toml", ".pre-commit-config.yaml"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "--quiet")
    git(folder, "config", "user.email", "someone@example.org")
    git(folder, "config", "user.name", "Someone")
    subprocess.run([tool("pre-commit"), "install"], cwd=folder, check=True, env=plain_env(folder))
    return folder


def test_a_commit_of_what_lint_refuses_is_refused(checkout):
    (checkout / ".gitignore").write_text(".venv/\n.cache/\n")
    (checkout / "good.py").write_text('"""Good."""\n')
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "good")
    for bad, said in (("import os\n", "F401"), ("x = ( 1 )\n", "would be reformatted")):
        (checkout / "bad.py").write_text(bad)
        git(checkout, "add", "bad.py")
        refused = git(checkout, "commit", "-m", "bad", check=False)
        assert refused.returncode and said in refused.stdout + refused.stderr
    assert git(checkout, "rev-list", "--count", "HEAD").stdout.strip() == "1"


def tool(name: str) -> str:
    path = pathlib.Path(sys.executable).with_name(name)
    assert path.exists(), f"{path}: missing; make install"
    return str(path)


def git(folder: pathlib.Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=plain_env(folder), capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def plain_env(folder: pathlib.Path) -> dict[str, str]:
    """The environment, with no git settings and no cache from outside of the folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    cache = str(folder / ".cache")
    return kept | {"HOME": str(folder), "PRE_COMMIT_HOME": cache, "GIT_CONFIG_NOSYSTEM": "1"}


# --- make --------------------------------------------------------------------------------------

INTERPRETER = """#!/bin/sh
case "$*" in
  *print*) echo {version} ;;
  *exit*) exit {code} ;;
esac
"""


def planned(*arguments: str, folder: pathlib.Path = ROOT) -> list[str]:
    """The commands that make would run."""
    done = make("-n", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def make(*arguments: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    """A make of its own, also where make runs the tests."""
    outer = ("MAKE", "MFLAGS", "PYTHON", "VENV")
    env = {k: v for k, v in os.environ.items() if not k.startswith(outer) or k == "PYTHONPATH"}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def interpreter(path: pathlib.Path, version: str) -> pathlib.Path:
    """A stand-in that says it is that version of Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = tuple(map(int, version.split("."))) < (3, 11)
    path.write_text(INTERPRETER.format(version=version, code=int(old)))
    path.chmod(0o755)
    return path


@pytest.fixture
def fresh(tmp_path) -> pathlib.Path:
    """A checkout with what make reads, all of it an hour old."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "constraints", tmp_path / "constraints")
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, path.stat().st_mtime - 3600))
    return tmp_path


def built(folder: pathlib.Path, version: str) -> None:
    """Leaves what an install by that version leaves."""
    interpreter(folder / ".venv" / "bin" / "python", version)
    (folder / ".venv" / ".installed").touch()


def constraints(commands: list[str]) -> str:
    (line,) = (line for line in commands if "pip install" in line)
    return line.rpartition("-c constraints/")[2]


def test_the_python_version_chooses_the_constraints(fresh):
    chosen = {}
    for version in VERSIONS:
        python = interpreter(fresh / version / "python", version)
        chosen[version] = constraints(planned("install", f"PYTHON={python}", folder=fresh))
    assert chosen == {"3.11": "py311.txt", "3.12": "py312.txt", "3.13": "py312.txt"}
    assert all((ROOT / "constraints" / name).exists() for name in chosen.values())


def test_another_version_builds_the_environment_anew_and_the_same_one_does_not(fresh):
    built(fresh, "3.11")
    same, other = (interpreter(fresh / v / "python", v) for v in ("3.11", "3.13"))
    for asked in ([], [f"PYTHON={same}"]):
        assert "Nothing to be done" in planned("install", *asked, folder=fresh)[0]
    commands = planned("install", f"PYTHON={other}", folder=fresh)
    assert constraints(commands) == "py312.txt"
    assert any(f"{other} -m venv --clear .venv" in line for line in commands)


def test_an_environment_keeps_its_python_and_is_brought_up_to_date(fresh):
    built(fresh, "3.13")
    (fresh / "constraints" / "py311.txt").touch()
    (fresh / "constraints" / "peers.txt").touch()
    os.utime(fresh / ".venv" / ".installed", (0, (fresh / "pyproject.toml").stat().st_mtime + 60))
    assert "Nothing to be done" in planned("install", folder=fresh)[0]
    (fresh / "constraints" / "py312.txt").touch()
    assert constraints(planned("install", folder=fresh)) == "py312.txt"


@pytest.mark.parametrize("version", ["3.10", None])
def test_an_old_or_missing_python_is_one_line(fresh, version):
    python = interpreter(fresh / "old", version) if version else fresh / "none"
    for target in ("install", "peers"):
        done = make(target, f"PYTHON={python}", folder=fresh)
        line, *rest = done.stderr.splitlines()
        assert line.startswith(f"error: {python} does not run, or is older than 3.11")
        assert len(rest) == 1 and done.returncode == 2  # the other line is make's own
        assert not list(fresh.glob(".venv*"))


# --- tests that a plain run leaves out ---------------------------------------------------------


def test_what_a_plain_run_leaves_out_has_a_command_of_its_own():
    options = PROJECT["tool"]["pytest"]["ini_options"]
    marks = [text.partition(":")[0] for text in options["markers"]]
    assert marks == ["beam", "medium", "peers", "slow"]
    left_out = options["addopts"].partition("-m ")[2].strip("'").split(" and ")
    assert {text.removeprefix("not ") for text in left_out} == set(marks)
    for mark in marks:
        assert f"`make test-{mark}`" in options["markers"][marks.index(mark)]
        assert any(re.search(f"-m '?{mark}\\b", line) for line in planned(f"test-{mark}"))


def test_the_peers_are_pinned_and_no_part_of_the_package():
    text = "\n".join(planned("-W", "constraints/peers.txt", "peers")).replace("\\\n", " ")
    (asked,) = re.findall(r"pip install (.*) -c constraints/peers.txt", text)
    asked = {name for name in asked.split() if not name.startswith("-")}
    pins = (ROOT / "constraints" / "peers.txt").read_text()
    assert {"torch", "torchvision", "timm"} < asked
    assert asked <= set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE))
    stated = PROJECT["project"]["dependencies"]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        stated = stated + extra
    assert not asked & {re.match(r"[\w-]+", text)[0] for text in stated}


def test_every_comparison_with_a_peer_is_marked():
    files = sorted((ROOT / "tests" / "peers").glob("test_*.py"))
    assert files and all("\npytestmark = pytest.mark.peers\n" in p.read_text() for p in files)
