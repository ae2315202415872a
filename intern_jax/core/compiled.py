"""Compiled programs on disk, so that a restart compiles nothing."""

import contextlib
import logging
import os
import pathlib
import time

log = logging.getLogger(__name__)

CHECKED = "checked"  # a file whose time says which entries are known to be whole
# An entry that is younger may be under way in another process.
YOUNG_SECONDS = 60.0


def enable_compilation_cache(folder: str | os.PathLike[str]) -> None:
    """Keep compiled programs in `folder`, so that a restart with the same shapes compiles nothing.

    A folder that the environment names as JAX_COMPILATION_CACHE_DIR is used in its place: many runs may share it. An
    entry that a kill cut off is deleted. JAX would compile its program at every start, and never write it again.
    """
    import jax

    place = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder)
    # What cannot be read or deleted is compiled again.
    with contextlib.suppress(OSError):
        _drop_broken(place)
    jax.config.update("jax_compilation_cache_dir", str(place))
    # Small programs are kept too: a restart has dozens of them and waits for each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # XLA's own caches would put the folder's path into every key, so a copied or moved folder would be useless.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _drop_broken(folder: pathlib.Path) -> None:
    """Delete entries that cannot be unpacked, of those that were written since the last call."""
    # JAX writes an entry in place, and has no public name for its form.
    from jax._src.compilation_cache import decompress_executable

    stamp, now = folder / CHECKED, time.time()
    since = stamp.stat().st_mtime if stamp.exists() else 0.0
    entries = list(folder.glob("*-cache"))
    for path in entries:
        written = path.stat().st_mtime
        if not since <= written < now - YOUNG_SECONDS and path.stat().st_size:
            continue
        try:
            decompress_executable(path.read_bytes())
        except OSError:
            raise
        except Exception:
            log.warning("%s: is not whole; its program is compiled again", path)
            path.unlink(missing_ok=True)
    if entries:
        stamp.touch()
        os.utime(stamp, (now - YOUNG_SECONDS, now - YOUNG_SECONDS))
