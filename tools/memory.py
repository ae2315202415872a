"""Memory of the programs here."""

import pathlib
import sys


def peak_mb() -> float:
    """The most memory that this process has had resident, in MB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which on Linux begins with the parent's.
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
