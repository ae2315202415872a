"""Public dotted names resolve, and old ones lead to them with one line."""

import importlib
import importlib.util
import logging
import re

import pytest

from intern_jax.core import config as config_lib
from intern_jax.core import names, schema
from intern_jax.core.config import UserError
from intern_jax.data.batches.settings import Group

OLD = {
    "intern_jax.data.transforms:classification": "intern_jax.data.make.views:classification",
    "intern_jax.data.transforms:dense": "intern_jax.data.make.dense:dense",
    "intern_jax.data.transforms:pair_views": "intern_jax.data.make.pairs:PairViews",
    "intern_jax.data.transforms:centre_crop": "intern_jax.data.make.views:centre_crop",
    "intern_jax.data.dense_transforms:crop": "intern_jax.data.make.dense:crop",
    "intern_jax.data.sources:ImageFolder": "intern_jax.data.sources.folder:ImageFolder",
    "intern_jax.data.sources:ArrayRecordSource": (
        "intern_jax.data.sources.array_record:ArrayRecordSource"
    ),
    "intern_jax.data.sources:TfdsSource": "intern_jax.data.sources.tfds:TfdsSource",
    "intern_jax.data.replacing:Replacing": "intern_jax.data.batches.replacing:Replacing",
    "intern_jax.data.gvb.rows:ranked_split": (
        "intern_jax.data.gvb.classification.examples:ranked_split"
    ),
    "intern_jax.data.gvb.voc:read_masks": "intern_jax.data.gvb.scenes.voc:read_masks",
    "intern_jax.benchmark.suite:find": "intern_jax.benchmark.rows.suite:find",
    "intern_jax.models.multi_head:MultiHead": "intern_jax.tasks.multi_head:MultiHead",
    "intern_jax.weights.convert:convert": "intern_jax.weights.published.convert:convert",
    "intern_jax.weights.folder:Model": "intern_jax.weights.model:Model",
}


@pytest.fixture
def lines(caplog):
    names._told.cache_clear()
    caplog.set_level(logging.WARNING, "intern_jax.core.names")
    return caplog


@pytest.mark.parametrize("name", [name for use in names.PUBLIC.values() for name in use])
def test_a_public_name_is_at_its_address(name, lines):
    assert callable(config_lib.resolve(name))
    assert not lines.messages


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_name_works_and_one_line_says_the_new(old, new, lines):
    assert config_lib.resolve(old) is config_lib.resolve(new)
    config_lib.resolve(old)
    assert lines.messages == [f"{old} is an old name; write {new}"]


def test_checked_settings_hold_todays_names(lines):
    group = {
        "sources": [{"fn": "intern_jax.data.embedded:load", "name": "fashion_pool"}],
        "batch_size": 2,
        "transform": {"fn": "intern_jax.data.transforms:classification", "size": 8},
    }
    made = schema.checked(Group, group, "group")
    assert made["transform"]["fn"] == "intern_jax.data.make.views:classification"
    today = group | {"transform": {**group["transform"], "fn": made["transform"]["fn"]}}
    assert made == schema.checked(Group, today, "group")
    assert len(lines.messages) == 1


def test_every_address_that_moved_leads_somewhere():
    for new in names.RENAMED.values():
        assert config_lib.resolve(new)
    for new in names.MOVED.values():
        assert importlib.import_module(new)
    # One step leads to the new address: it is not an old one of another thing.
    for new in names.RENAMED.values():
        assert names.current(new) == new


@pytest.mark.parametrize("old", names.GONE)
def test_of_what_is_gone_one_line_says_what_to_use(old, lines):
    with pytest.raises(UserError, match="no such function any more; use ") as error:
        config_lib.resolve(old)
    assert "\n" not in str(error.value) and not lines.messages
    (use,) = re.findall(r"intern_jax[.\w]*:\w+", names.GONE[old])
    assert config_lib.resolve(use)
    module, _, name = old.partition(":")
    assert importlib.util.find_spec(module) is None or not hasattr(
        importlib.import_module(module), name
    )
