"""Mixup and CutMix: who is mixed with whom, what comes out, and that no sharding changes it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forced_devices import answer_of

from intern_jax.core import schema
from intern_jax.core.config import UserError
from intern_jax.core.mesh import make_mesh
from intern_jax.ops.mixing import Draws, Mixing, boxes, draw, mix, mixed, partners_within

ROWS, HEIGHT, WIDTH = 16, 10, 14


def pictures(rows=ROWS):
    return np.random.default_rng(0).normal(size=(rows, HEIGHT, WIDTH, 3)).astype(np.float32)


# --- partners -------------------------------------------------------------------------------------


def test_partners_are_rows_of_the_same_source_in_reverse():
    source = jnp.asarray([0, 1, 0, 2, 1, 0, 1, 1])
    np.testing.assert_array_equal(partners_within(source), [5, 7, 2, 3, 6, 0, 4, 1])
    one = partners_within(jnp.zeros(6, jnp.int32))
    np.testing.assert_array_equal(one, np.arange(6)[::-1])
    assert one.dtype == jnp.int32


def test_partners_stay_in_their_part_and_are_as_valid():
    rng = np.random.default_rng(1)
    source, valid = rng.integers(0, 3, 32), rng.random(32) < 0.7
    found = np.asarray(partners_within(jnp.asarray(source), jnp.asarray(valid), parts=4))
    np.testing.assert_array_equal(found[found], np.arange(32))
    np.testing.assert_array_equal(found // 8, np.arange(32) // 8)
    np.testing.assert_array_equal(valid[found], valid)
    np.testing.assert_array_equal(source[found][valid], source[valid])
    assert (found != np.arange(32)).sum() > 10


# --- what comes out -------------------------------------------------------------------------------


def test_mixup_is_a_weighted_mean():
    images, partners = pictures(), np.arange(ROWS)[::-1]
    drawn = Draws(jnp.asarray([0.3]), jnp.zeros((1, 2), jnp.int32), jnp.asarray([False]))
    found, share = mixed(jnp.asarray(images), jnp.asarray(partners), drawn)
    np.testing.assert_allclose(found, 0.3 * images + 0.7 * images[::-1], atol=1e-6)
    np.testing.assert_allclose(share, np.full(ROWS, np.float32(0.3)))


@pytest.mark.parametrize("centre", [(5, 7), (0, 0), (9, 13), (1, 12)])
def test_cutmix_puts_a_box_and_its_share_is_the_area(centre):
    images, partners = pictures(), np.arange(ROWS)[::-1]
    drawn = Draws(jnp.asarray([0.75]), jnp.asarray([centre]), jnp.asarray([True]))
    found, share = mixed(jnp.asarray(images), jnp.asarray(partners), drawn)
    # Half of the sides: 5 x 7 around the centre, cut off at the borders.
    top, bottom = max(centre[0] - 2, 0), min(centre[0] + 3, HEIGHT)
    left, right = max(centre[1] - 3, 0), min(centre[1] + 4, WIDTH)
    expected = images.copy()
    expected[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    np.testing.assert_array_equal(found, expected)
    area = (bottom - top) * (right - left)
    np.testing.assert_allclose(share, 1 - area / (HEIGHT * WIDTH), rtol=1e-6)


def test_boxes_have_whole_sides():
    share = jnp.asarray([1.0, 0.0, 0.98, 0.5])
    top, bottom, left, right = boxes(share, jnp.full((4, 2), 5), HEIGHT, WIDTH)
    np.testing.assert_array_equal(bottom - top, [0, HEIGHT, 1, 7])
    np.testing.assert_array_equal(right - left, [0, 12, 1, 9])


# --- draws ----------------------------------------------------------------------------------------


def test_draws_have_the_stated_distributions():
    cfg = Mixing(mixup=0.4, cutmix=2.0, probability=0.8, switch_probability=0.3, each="row")
    share, centre, cut = map(np.asarray, draw(jax.random.key(0), 20000, HEIGHT, WIDTH, cfg))
    done = share < 1
    assert done.mean() == pytest.approx(0.8, abs=0.02)
    assert cut.mean() == pytest.approx(0.3, abs=0.02)
    for part, alpha in ((done & ~cut, 0.4), (done & cut, 2.0)):
        assert share[part].mean() == pytest.approx(0.5, abs=0.02)
        assert share[part].var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert (centre.min(axis=0) == 0).all()
    assert tuple(centre.max(axis=0)) == (HEIGHT - 1, WIDTH - 1)
    np.testing.assert_allclose(centre.mean(axis=0), [4.5, 6.5], atol=0.1)


@pytest.mark.parametrize(("settings", "cut"), [({"mixup": 0.0}, True), ({"cutmix": 0.0}, False)])
def test_one_alone_is_always_taken(settings, cut):
    cfg = Mixing(**settings)
    for seed in range(5):
        drawn = draw(jax.random.key(seed), ROWS, HEIGHT, WIDTH, cfg)
        assert drawn.cut.tolist() == [cut] and drawn.share.shape == (1,)


@pytest.mark.medium
def test_no_probability_changes_nothing():
    for each in ("batch", "row"):
        cfg = Mixing(probability=0.0, each=each)
        partners = partners_within(jnp.zeros(ROWS, jnp.int32))
        found, share = mix(jax.random.key(0), jnp.asarray(pictures()), partners, cfg)
        np.testing.assert_array_equal(found, pictures())
        assert share.shape == (ROWS,) and (share == 1).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixup": 0.0, "cutmix": 0.0}, "mixing.mixup: 0 and cutmix too; give one of them above 0"),
        ({"mixup": -1.0}, "mixing.mixup: -1.0; write a number of at least 0"),
        ({"probability": 1.5}, "mixing.probability: 1.5; write a number of at most 1"),
        ({"each": "elem"}, "mixing.each: no 'elem'; known: batch, row"),
        ({"alpha": 1.0}, "mixing.alpha: no such field"),
    ],
)
def test_wrong_settings(given, said):
    with pytest.raises(UserError, match=said):
        schema.read(Mixing, given, "mixing")


# --- meshes ---------------------------------------------------------------------------------------


@pytest.mark.medium
def test_eight_devices_give_the_numbers_of_one():
    found = answer_of(pathlib.Path(__file__).resolve())
    assert found == {"1": [True, 8, True, True], "8": [True, 8, False, False]}


def main() -> dict[str, tuple[bool, int, bool, bool]]:
    """By number of parts: whether all is equal, over how many devices it lies, what is gathered and communicated.

    The last two are whether pictures are gathered, and whether devices communicate at all.
    """
    cfg = Mixing(each="row")
    images, source = jnp.asarray(pictures(64)), jnp.arange(64) % 3
    mesh = make_mesh(data=8)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    answer = {}
    for parts in (1, 8):

        def run(key, images, source, parts=parts):
            return mix(key, images, partners_within(source, parts=parts), cfg, parts)

        key = jax.random.key(0)
        one = jax.jit(run)(key, images, source)
        shared = jax.device_put((images, source), rows)
        key = jax.device_put(key, jax.NamedSharding(mesh, jax.P()))

        def in_a_step(*given, run=run):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # as the train step does
                return run(*given)

        program = jax.jit(in_a_step, out_shardings=rows).lower(key, *shared).compile()
        many = program(key, *shared)
        equal = np.allclose(one[0], many[0], rtol=0, atol=1e-6) and np.array_equal(one[1], many[1])
        calls = [f" {name}(" for name in ("all-gather", "all-reduce", "all-to-all")]
        calls = [*calls, " collective-permute("]
        said = [line for line in program.as_text().splitlines() if any(c in line for c in calls)]
        moved = any(calls[0] in line and f"{HEIGHT},{WIDTH},3]" in line for line in said)
        devices = len(many[0].sharding.device_set)
        answer[str(parts)] = (bool(equal), devices, moved, bool(said))
    return answer


if __name__ == "__main__":
    print(json.dumps(main()))
