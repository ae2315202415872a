"""Readouts against their definition: which maps and branches they hold, where cells begin and end, and their names."""

import jax
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.models.heads import readout
from intern_jax.tasks import task as tasks
from intern_jax.weights.model import Model

TINY = {"name": "embedded_tiny"}
OUTPUTS = ("layer1", "layer2", "layer3", "layer4", "pooled")
BRANCHES = ("cls", "dense", "people", "cars")


def outputs(seed, sides=(8, 4, 2, 1)):
    rng = np.random.default_rng(seed)
    maps = {f"layer{i + 1}": rng.normal(size=(3, s, s, 5 + i)) for i, s in enumerate(sides)}
    return maps | {"pooled": rng.normal(size=(3, 7))}


def test_layers_are_the_means_of_all_maps_and_the_vector_of_every_branch():
    one, two = outputs(0), outputs(1)
    found = np.asarray(readout.layers([one, two]))
    expected = [
        np.concatenate([*(x[f"layer{i}"].mean((1, 2)) for i in range(1, 5)), x["pooled"]], axis=1)
        for x in (one, two)
    ]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-5)
    assert found.dtype == np.float32


def test_grids_add_four_cells_of_the_two_coarsest_maps_that_have_them():
    one = outputs(0)
    found = np.asarray(readout.grids([one]))
    layers = np.asarray(readout.layers([one]))
    np.testing.assert_array_equal(found[:, : layers.shape[1]], layers)
    cells = [  # of maps with 4 x 4 and 2 x 2 positions; that of one position has none
        one[name].reshape(3, 2, half, 2, half, -1).mean((2, 4)).reshape(3, -1)
        for name, half in (("layer2", 2), ("layer3", 1))
    ]
    np.testing.assert_allclose(found[:, layers.shape[1] :], np.concatenate(cells, 1), rtol=1e-5)


def test_cells_of_an_odd_side_share_the_middle_row_as_in_pytorch():
    assert readout._shares(7).tolist() == [[0.25] * 4 + [0] * 3, [0] * 3 + [0.25] * 4]
    assert readout._shares(2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.medium
@pytest.mark.parametrize("side", [32, 45])
def test_a_model_gives_the_readouts_of_all_its_branches(side):
    model = Model.random({"name": "generalist", "branch": TINY}, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    for branch, other in (("cls", "dense"), ("dense", "cls")):
        both = [jax.device_get(model.outputs(images, b, OUTPUTS)) for b in (branch, other)]
        for name, function in readout.READOUTS.items():
            found = model.outputs(images, branch, (name,))[name]
            np.testing.assert_allclose(found, function(both), rtol=1e-4, atol=1e-5)
    single = Model.random(TINY, 0)
    widths = [single.outputs(images, "cls", (name,))[name].shape[1] for name in readout.NAMES]
    assert widths[0] < widths[1] < widths[2]


def test_a_readout_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"head\.settings\.readout: no 'layer'; "):
        tasks.find("classification").check_head("", {"readout": "layer"})
    with pytest.raises(UserError, match=r"head\.settings\.width"):
        tasks.find("classification").check_head("", {"width": 3})


# --- branches and maps by name --------------------------------------------------------------------


def mean(x):
    return x.astype(np.float64).mean((1, 2))


def cells(x):
    """The means of the quarters of a map with even sides."""
    half = [slice(None, x.shape[1] // 2), slice(x.shape[1] // 2, None)]
    return np.concatenate([mean(x[:, i, j]) for i in half for j in half], axis=1)


@pytest.mark.medium
@pytest.mark.parametrize("count", [2, 3, 4])
def test_named_branches_and_maps_are_joined_in_the_order_in_which_they_are_written(count):
    names = BRANCHES[:count]
    transfer = "none" if count == 4 else "paths"  # for the time that twelve paths take
    spec = {"name": "generalist", "branch": TINY, "branches": list(names), "transfer": transfer}
    model = Model.random(spec, 1)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    seen = {name: jax.device_get(model.outputs(images, name, OUTPUTS)) for name in names}
    backwards = names[::-1]

    def each(parts):
        return np.concatenate([part for name in backwards for part in parts(seen[name])], axis=1)

    listed, maps, first = "+".join(backwards), OUTPUTS[:4], seen["dense"]
    coarse = [each(lambda x: [mean(x["layer4"])]), each(lambda x: [cells(x["layer4"])])]
    # Without a list of branches: all of them, the task's own first.
    rest = [seen[name] for name in names if name != "cls"]
    expected = {
        f"pooled:{listed}": each(lambda x: [x["pooled"]]),
        f"layers:{listed}": each(lambda x: [*(mean(x[n]) for n in maps), x["pooled"]]),
        f"layers:{listed}@layer4+layer1": each(lambda x: [mean(x["layer4"]), mean(x["layer1"])]),
        f"layers:{listed}@pooled+layer3": each(lambda x: [x["pooled"], mean(x["layer3"])]),
        f"grids:{listed}@layer4": np.concatenate(coarse, axis=1),
        "layers:dense@layer2": mean(first["layer2"]),
        "pooled:detection": first["pooled"],
        "layers@layer4": np.concatenate([mean(x["layer4"]) for x in (seen["cls"], *rest)], axis=1),
    }
    found = model.outputs(images, "cls", tuple(expected))
    for name, values in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.medium
def test_a_plain_network_has_readouts_of_chosen_maps():
    model = Model.random(TINY, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    seen = jax.device_get(model.outputs(images, None, OUTPUTS))
    for name in ("layers@layer3+pooled", "layers:cls@layer3+pooled", "layers:depth@layer3+pooled"):
        expected = np.concatenate([mean(seen["layer3"]), seen["pooled"]], axis=1)
        found = model.features(list(images), output=name)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    pooled = model.features(list(images), output="pooled:cls")
    # Programs of other outputs: the compiler may add in another order.
    np.testing.assert_allclose(pooled, seen["pooled"], rtol=1e-5, atol=1e-6)


@pytest.mark.medium
def test_a_batchnorm_set_is_named_after_a_slash():
    spec = {"name": "generalist", "branch": TINY, "sets": ["cls", "dense", "pets"]}
    model = Model.random(spec, 0)
    rng = np.random.default_rng(0)
    model.variables["params"] = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), model.variables["params"]
    )
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)

    def pooled(branch):
        return model.outputs(images, branch, ("pooled",))["pooled"]

    named = "pooled:cls/pets+dense/pets"
    found = model.outputs(images, "cls", (named,))[named]
    expected = np.concatenate([pooled("cls/pets"), pooled("dense/pets")], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(pooled("cls/pets"), pooled("cls"), rtol=1e-3)
    # The branch of the task, with whatever set, is not read twice.
    found = model.outputs(images, "cls/pets", ("layers@pooled",))["layers@pooled"]
    expected = np.concatenate([pooled("cls/pets"), pooled("dense")], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Watched:
    """A network of three branches that notes which of them run."""

    branches = ("a", "b", "cls")

    def __init__(self):
        self.ran = []

    def apply(self, _variables, images, *, task, **_):
        self.ran.append(task)
        return {"pooled": images.mean((1, 2)), "layer4": images}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pooled"], ["cls"]),
        (["layers"], ["cls", "a", "b"]),
        (["pooled:b"], ["b"]),
        (["layers:b+a@layer4", "pooled:a"], ["b", "a"]),
        (["grids:cls", "layer4"], ["cls"]),
        (["layer4", "pooled:a"], ["a", "cls"]),
        ([], ["cls"]),
    ],
)
def test_only_the_branches_that_are_asked_for_run_and_each_once(names, expected):
    network = Watched()
    found = readout.outputs(network, {}, np.ones((1, 4, 4, 3), np.float32), "cls", names)
    assert network.ran == expected and set(names) <= set(found)


@pytest.mark.medium
def test_branches_of_other_names_need_no_branch_of_the_task():
    spec = {"name": "generalist", "branch": TINY, "branches": ["people", "cars"]}
    model = Model.random(spec, 0)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8))
    found = model.features(images, output="pooled:people+cars")
    each = [model.features(images, branch=name) for name in ("people", "cars")]
    np.testing.assert_allclose(found, np.concatenate(each, axis=1), rtol=1e-4, atol=1e-5)
    for output in ("pooled", "layers", "layers@layer4"):
        with pytest.raises(UserError, match="no branch 'cls'; it has people, cars: give branch="):
            model.features(images, output=output)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pooled", ("pooled", (), ())),
        ("grids:cls", ("grids", ("cls",), ())),
        ("layers:cls+a/b@layer1", ("layers", ("cls", "a/b"), ("layer1",))),
        ("layers@layer3+pooled", ("layers", (), ("layer3", "pooled"))),
    ],
)
def test_a_name_in_parts(text, parts):
    assert readout.parse(text) == readout.Readout(*parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer", "no 'layer'; did you mean layers"),
        ("poled:cls", "no 'poled'; did you mean pooled"),
        ("", "no ''; known: grids, layers, pooled"),
        ("layers:", "'layers:' has a branch without a name; write FORM"),
        ("layers:cls+", "has a branch without a name"),
        ("layers@", "has a map without a name"),
        ("layers:cls+cls", "names a branch twice"),
        ("layers:os.path", "'os.path' is no name of a branch; write BRANCH or BRANCH/SET"),
        ("layers:cls:pets", "'cls:pets' is no name of a branch; write BRANCH or BRANCH/SET"),
        ("layers:../cls", "'../cls' is no name of a branch"),
        ("layers@layer1+layer1", "names a map twice"),
        ("layers@layr3", "reads no map 'layr3'; did you mean layer3"),
        ("layers@stem", "reads no map 'stem'; known: layer1, layer2, layer3, layer4, pooled"),
        ("pooled:cls@layer3", "pooled reads no map; write layers@layer3"),
        ("grids@pooled", "grids are of maps; name one"),
    ],
)
def test_mistakes_in_a_name_are_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        readout.parse(text)
    assert "\n" not in str(error.value)


class NeverRead:
    """Pictures that must not be asked for."""

    def __iter__(self):
        raise AssertionError("a picture was read")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("spec", "output", "message"),
    [
        (2, "pooled:dens", "random-0: 'pooled:dens': no branch 'dens'; it has cls, dense"),
        (2, "layers:cls/pets", "no BatchNorm set 'pets'; it has cls, dense"),
        (2, "pooled:cls+classification", "two of its names are of one branch"),
        (1, "pooled:cls+dense", "two of its names are of one branch"),
        (1, "layers:sky", "no branch 'sky'; the network has one alone, leave its name out"),
        (1, "layrs:cls", "no 'layrs'; did you mean layers"),
    ],
)
def test_a_branch_that_is_not_there_is_named_before_a_picture_is_read(spec, output, message):
    model = Model.random(TINY if spec == 1 else {"name": "generalist", "branch": TINY}, 0)
    with pytest.raises(UserError, match=message) as error:
        model.features(NeverRead(), output=output)
    assert "\n" not in str(error.value)


def test_a_map_that_a_network_does_not_give_is_named():
    with pytest.raises(UserError, match="the network gives no 'layer2'; did you mean layer4"):
        readout.outputs(Watched(), {}, np.ones((1, 4, 4, 3)), "cls", ["layers:a@layer2"])
