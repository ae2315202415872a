"""Huge pages for the arrays of a process on a CPU.

XLA:CPU allocates memory for every step anew, and the C library returns it to the kernel after the step. So each step
touches gigabytes for the first time, with one page fault per 4 KiB; with huge pages it is one per 2 MiB. glibc asks the
kernel for huge pages if an environment variable is set when the process starts, so the program restarts itself once.
This file imports no jax, because the restart must come before any other work.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

TUNABLES, HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
POLICY = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that the process lacks to get huge pages; {} if it lacks none or they would not help.

    They help only with glibc 2.35 or newer, on a kernel that gives huge pages on request ("madvise").
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
    """Restart this program in the same process with the same arguments, if that gives it huge pages."""
    missing = huge_pages()
    if missing and sys.executable:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)
