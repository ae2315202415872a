"""Huge pages: when they are asked for, and that a program starts again but once."""

import os
import subprocess
import sys

import pytest

from intern_jax.processes import memory
from intern_jax.processes.memory import huge_pages

PROGRAM = """
import os, sys
from intern_jax.processes import memory
memory.huge_pages = lambda: {} if "GLIBC_TUNABLES" in os.environ else {"GLIBC_TUNABLES": "a=1"}
print("begins", flush=True)
memory.restart_with_huge_pages()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], sys.argv)
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets the kernel's policy and the C library."""

    def settle(policy="always [madvise] never", library=("glibc", "2.36")):
        path = tmp_path / "enabled"
        path.write_text(policy)
        monkeypatch.setattr(memory, "POLICY", path)
        monkeypatch.setattr(memory.platform, "libc_ver", lambda: library)

    return settle


def test_they_are_asked_for_where_the_kernel_gives_them_on_request(machine):
    machine()
    assert huge_pages({}) == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    others = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    assert huge_pages(others)["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"


def test_a_users_own_choice_stays(machine):
    machine()
    assert huge_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}) == {}


@pytest.mark.parametrize("policy", ["[always] madvise never", "always madvise [never]"])
def test_the_kernels_other_policies_need_nothing(machine, policy):
    machine(policy)
    assert huge_pages({}) == {}


@pytest.mark.parametrize("library", [("glibc", "2.31"), ("", "")])
def test_another_c_library_is_left_alone(machine, library):
    machine(library=library)
    assert huge_pages({}) == {}


def test_no_such_kernel(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(memory, "POLICY", tmp_path / "missing")
    assert huge_pages({}) == {}


def test_a_program_starts_again_once_in_the_same_process():
    env = {name: value for name, value in os.environ.items() if name != memory.TUNABLES}
    command = [sys.executable, "-c", PROGRAM, "--one", "two words"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines == ["begins"] * 2 + [f"{process.pid} a=1 ['-c', '--one', 'two words']"]
