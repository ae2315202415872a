"""What is said of where and how something was made."""

import datetime
import socket
import subprocess
import sys

from intern_jax.core import provenance
from intern_jax.core.texts import moment


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_is_that_of_the_checkout_and_says_that_files_differ(tmp_path):
    (tmp_path / "a").write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag is no commit")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert provenance.commit(tmp_path) == head[:12]
    (tmp_path / "new").write_text("not tracked")
    assert provenance.commit(tmp_path) == head[:12]
    (tmp_path / "a").write_text("2")
    assert provenance.commit(tmp_path) == f"{head[:12]}-dirty"


def test_an_installed_package_does_not_name_the_commit_of_the_repository_around_it(tmp_path):
    git(tmp_path, "init", "-q")
    inside = tmp_path / ".venv" / "site-packages"
    inside.mkdir(parents=True)
    assert provenance.commit(inside) is None


def test_a_machine_without_git_has_no_commit(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert provenance.commit(tmp_path) is None  # a broken repository
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(tmp_path) is None


def test_command_can_be_typed_again_and_the_date_has_its_zone(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/x/bin/python3", "-m", "intern_jax", "--out=a b"])
    made = provenance.made()
    assert made["command"] == "python -m intern_jax '--out=a b'"
    assert made["host"] == socket.gethostname() and "cores" in made["system"]
    when = datetime.datetime.fromisoformat(made["date"])
    assert (
        when.tzinfo is not None and abs(when.timestamp() - datetime.datetime.now().timestamp()) < 60
    )
    assert moment("2026-11-29T15:50:03+01:00") == "2026-11-29 15:50 +01:00"
