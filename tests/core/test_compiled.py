"""Compiled programs: a broken entry is deleted once, so that it is written again."""

import os
import time

import jax
import jax.numpy as jnp
import pytest

from intern_jax.core import compiled


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of compiled programs in use; JAX forgets it afterwards."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = ("dir", "persistent_cache_min_compile_time_secs", "persistent_cache_enable_xla_caches")
    names = ("jax_compilation_cache_dir", *(f"jax_{name}" for name in names[1:]))
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    reset()


def reset():
    from jax._src import compilation_cache

    compilation_cache.reset_cache()
    jax.clear_caches()


def start(folder):
    """A run's start, and one program."""
    reset()
    compiled.enable_compilation_cache(folder)
    assert float(jax.jit(lambda x: jnp.sin(x) * 3 + 1)(0.0)) == 1.0
    return {path: path.read_bytes() for path in folder.glob("*-cache")}


def age(folder):
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.mark.medium
@pytest.mark.parametrize("size", [0, 100])
def test_an_entry_that_was_cut_off_is_written_again(folder, caplog, size):
    whole = start(folder)
    assert whole
    for path in whole:
        os.truncate(path, size)
    age(folder)
    again = start(folder)
    assert caplog.text.count("is not whole") == len(whole)
    assert again.keys() == whole.keys() and all(len(again[p]) > 100 for p in whole)
    caplog.clear()
    age(folder)
    start(folder)
    assert "is not whole" not in caplog.text


def test_an_entry_under_way_is_left_alone(folder):
    path = next(iter(start(folder)))
    os.truncate(path, 100)
    start(folder)
    assert path.stat().st_size == 100
