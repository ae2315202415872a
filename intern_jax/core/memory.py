"""Huge pages for the arrays of a process on a CPU.

XLA:CPU takes the memory of a step anew every step, and the C library gives it back to the kernel in between: each step
touches gigabytes for the first time, 4 KiB a page fault, 2 MiB with huge pages. glibc asks the kernel for them if the
environment says so when a process starts, hence the restart. Imports no jax: nothing may have been done before it.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

TUNABLES, HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process must find in its environment to get huge pages; {} if it has it, or if it would not help.

    It would not where the C library is not glibc 2.35 or newer, or where the kernel gives them never or always.
    """
    library, version = platform.libc_ver()
    known = library == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    if not known or HUGE in environ.get(TUNABLES, ""):
        return {}
    try:
        on_request = "[madvise]" in POLICY.read_text()
    except OSError:
        return {}
    if not on_request:
        return {}
    return {TUNABLES: ":".join(filter(None, [environ.get(TUNABLES), f"{HUGE}=1"]))}


def restart_with_huge_pages() -> None:
    """Start this program again as it was started, in the same process, if that brings it huge pages."""
    missing = huge_pages()
    if missing and sys.executable:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)
