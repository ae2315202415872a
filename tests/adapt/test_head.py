"""Dense heads on a frozen backbone: they learn from augmented crops, and answer whole pictures one by one."""

import functools

import jax
import numpy as np
import pytest

from intern_jax.adapt import head as head_lib
from intern_jax.benchmark.rows import suite
from intern_jax.core import config as config_lib
from intern_jax.core import mesh as mesh_lib
from intern_jax.core import tree
from intern_jax.core.config import UserError
from intern_jax.data import embedded
from intern_jax.data.make.dense import resized
from intern_jax.data.sources.subset import Subset
from intern_jax.metrics import depth as depth_metrics
from intern_jax.metrics import segmentation as segmentation_metrics
from intern_jax.metrics import table
from intern_jax.models.backbone import LAYERS
from intern_jax.tasks import task as tasks
from intern_jax.train import optim
from intern_jax.weights.model import Model

TINY = Model.random({"name": "embedded_tiny"}, 0)
MESH = mesh_lib.make_mesh(devices=jax.devices()[:1])
COLOURS = np.array([(120, 120, 120), (220, 50, 50), (50, 80, 220)])
METRES = np.array([4.0, 2.0, 7.0], np.float32)
SIZES = ((64, 64), (40, 40), (50, 75), (64, 100))  # tested at two sizes: 64 x 64, 64 x 96
CROP = {"fn": "intern_jax.data.make.dense:crop"}
SEGMENTATION = {
    "family": "segmentation",
    "num_classes": 3,
    "head": {"name": "deeplabv3", "settings": {"width": 16, "auxiliary_width": 8}},
    "transform": CROP
    | {"size": [64, 48], "short": 64, "long": 256, "ratio": [0.7, 1.4], "max_share": 0.75},
    "cfg": {
        "steps": 60,
        "batch_size": 8,
        "optim": {
            "name": "sgd",
            "learning_rate": 0.1,
            "l2": 5e-4,
            "schedule": "poly",
            "end_rate": 1e-4,
        },
    },
}
DEPTH = {
    "family": "depth",
    "num_classes": 0,
    "head": {"name": "depth", "settings": {"width": 8, "bins": 16, "max_depth": 8.0}},
    "transform": CROP | {"size": [48, 64], "short": 64, "colour": "gamma"},
    "cfg": {
        "steps": 60,
        "batch_size": 8,
        "optim": {"learning_rate": 1e-2, "weight_decay": 0.01, "warmup_steps": 5},
    },
}


class Blocks:
    """Pictures of several sizes, each with a red or a blue block (classes 1, 2; 2 and 7 m) on grey (4 m)."""

    name, classes, labels = "blocks", ("grey", "red", "blue"), None

    def __init__(self, count: int, first: int = 0, family: str = "segmentation"):
        self.first, self.family = first, family
        self.keys = [str(first + i) for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        rng = np.random.default_rng(self.first + index)
        height, width = SIZES[int(rng.integers(len(SIZES)))]
        mask = np.zeros((height, width), np.uint8)
        top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
        mask[top : top + height // 2, left : left + width // 2] = rng.integers(1, 3)
        noise = rng.integers(-25, 26, (height, width, 3))
        image = np.clip(COLOURS[mask] + noise, 0, 255).astype(np.uint8)
        depth, valid = METRES[mask], mask > -1
        mask[:3, :3], valid[:3, :3] = 255, False
        fields = {"mask": mask} if self.family == "segmentation" else {"depth": depth}
        return {"image": image, "depth_valid": valid, "key": self.keys[index], **fields}


TEST = Blocks(11, first=1000)


def train(source, seed=0, **changes):
    arguments = SEGMENTATION | changes
    return head_lib.train_on_pictures(TINY, source, seed=seed, mesh=MESH, **arguments)


def statistics(predictions, source, family, num_classes):
    metric = table.find({"segmentation": "miou", "depth": "rmse"}[family])
    return head_lib.statistics(metric, predictions, source, family, num_classes)


@pytest.fixture(scope="module")
def fit():
    return train(Blocks(40))


def miou(fit, source) -> float:
    made = statistics(fit.predict(source, 4), source, "segmentation", 3)
    return segmentation_metrics.miou(made.sum(axis=0))


@pytest.mark.medium
def test_segmentation_learns(fit):
    losses = [row["loss"] for row in fit.history]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    for row in fit.history:
        total = row["segmentation"] + 0.4 * row["auxiliary"]
        np.testing.assert_allclose(row["loss"], total, rtol=1e-5)
    untrained = train(Blocks(40), cfg=SEGMENTATION["cfg"] | {"steps": 0})
    assert untrained.stage is fit.stage  # one compiled step for both
    # All grey would have a third of .75 at most.
    assert miou(untrained, TEST) < 0.4 and miou(fit, TEST) > 0.6


@pytest.mark.medium
def test_only_the_head_is_trained(fit):
    assert {name.split("/")[0] for name in tree.names(fit.params)} == {"decoder"}
    assert {name.split("/")[0] for name in tree.names(fit.extra["batch_stats"])} == {"decoder"}
    given = tree.names(TINY.variables)
    for name, array in tree.names(fit.frozen).items():
        np.testing.assert_array_equal(array, given[name])


@pytest.mark.medium
def test_an_answer_is_the_resized_pictures_logits_at_its_own_size(fit):
    """By the parts alone: features, head, two bilinear resizes."""
    wanted = {(40, 40): (64, 64), (50, 75): (64, 96)}
    head = functools.partial(fit.stage.model.apply, {"params": fit.params, **fit.extra})
    run = jax.jit(head, static_argnums=1)
    chosen = [i for i in range(len(TEST)) if TEST[i]["image"].shape[:2] in wanted]
    source, seen = Subset(TEST, chosen), set()
    for index, logits in fit.maps(source, 4):
        image = source[index]["image"]
        sides = image.shape[:2]
        if sides in seen:
            continue
        seen.add(sides)
        maps = TINY.outputs(resized(image, wanted[sides])[None], "dense", LAYERS)
        out = run(maps, wanted[sides])
        expected = jax.image.resize(out, (1, *sides, 3), "bilinear", antialias=False)[0]
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert seen == set(wanted)


@pytest.mark.medium
def test_answers_do_not_depend_on_the_batch(fit):
    alone = dict(fit.maps(TEST, 1))
    ((_, classes),) = fit.predict([{"image": TEST[3]["image"]}], 1)
    np.testing.assert_array_equal(classes, alone[3].argmax(-1))
    assert classes.shape == TEST[3]["image"].shape[:2] and classes.dtype == np.uint8
    backwards = Subset(TEST, np.arange(len(TEST))[::-1])
    for source, batch_size in ((TEST, 4), (backwards, 4), (Subset(TEST, [7]), 4)):
        made = dict(fit.maps(source, batch_size))
        assert sorted(made) == list(range(len(source)))
        for index, logits in made.items():
            own = alone[int(source.indices[index]) if source is not TEST else index]
            np.testing.assert_allclose(logits, own, atol=1e-5)
            np.testing.assert_array_equal(logits.argmax(-1), own.argmax(-1))


def test_fits_follow_their_seed():
    short = SEGMENTATION["cfg"] | {"steps": 2}
    made = [tree.names(train(Blocks(40), seed, cfg=short).params) for seed in (1, 1, 2)]
    for name, array in made[0].items():
        np.testing.assert_array_equal(array, made[1][name])
    assert any((array != made[2][name]).any() for name, array in made[0].items())


@pytest.mark.medium
def test_depth_learns_and_keeps_its_limits():
    test = Blocks(8, first=1000, family="depth")
    source = Blocks(40, family="depth")
    fit = head_lib.train_on_pictures(TINY, source, seed=0, mesh=MESH, **DEPTH)
    losses = [row["loss"] for row in fit.history]
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert fit.history[0]["loss"] == pytest.approx(10 * fit.history[0]["depth"])
    answers, truths = dict(fit.predict(test, 4)), [test[i]["depth"] for i in range(len(test))]
    for index, depth in answers.items():
        assert depth.shape == truths[index].shape and depth.dtype == np.float32
        assert depth.min() >= 1e-3 and depth.max() <= 8.0
    sums = statistics(answers.items(), test, "depth", 0)
    best = np.concatenate([truth.ravel() for truth in truths]).std()  # of any constant
    assert depth_metrics.measures(sums.sum(axis=0))["rmse"] < 0.7 * best


@pytest.mark.slow
def test_an_embedded_row_learns():
    source = embedded.load("sprites_seg", split="train")
    test = Subset(embedded.load("sprites_seg", split="test"), range(60))
    head = {"name": "deeplabv3", "settings": {"width": 32, "auxiliary_width": 16}}
    scores = []
    for steps in (0, 150):
        cfg = SEGMENTATION["cfg"] | {"steps": steps}
        fit = train(source, num_classes=9, head=head, cfg=cfg)
        made = statistics(fit.predict(test), test, "segmentation", 9).sum(axis=0)
        scores.append(float(segmentation_metrics.miou(made)))
    constant = made.sum(axis=1).max() / made.sum() / 9  # one class everywhere
    assert scores[1] > 1.2 * max(scores[0], constant)


class Scored:
    """Two depth maps, of which the lower half and depths within (1, 6) metres count."""

    name, family, depth_range = "scored", "depth", (1.0, 6.0)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        truth = rng.uniform(-1, 9, (6, 5)).astype(np.float32)
        return {"depth": truth, "depth_valid": rng.random((6, 5)) < 0.8, "key": str(index)}

    def evaluation_mask(self, height, width):
        return np.arange(height * width).reshape(height, width) >= height * width // 2


def test_depth_statistics_follow_the_sources_rules():
    source = Scored()
    predictions = np.random.default_rng(5).uniform(0, 12, (2, 6, 5)).astype(np.float32)
    made = statistics([(1, predictions[1]), (0, predictions[0])], source, "depth", 0)
    for index in range(2):
        truth, valid = source[index]["depth"], source[index]["depth_valid"]
        chosen = np.array([[r >= 3 for _ in range(5)] for r in range(6)]) & valid
        chosen &= (truth > 1) & (truth < 6)
        error = np.clip(predictions[index], 1, 6) - truth
        assert made[index][0] == chosen.sum() > 3
        np.testing.assert_allclose(made[index][1], (error[chosen] ** 2).sum(), rtol=1e-5)
    part = statistics([(0, predictions[1])], Subset(WithKeys(), [1]), "depth", 0)
    np.testing.assert_array_equal(part[0], made[1])
    with pytest.raises(UserError, match="scored: no prediction of sample 1"):
        statistics([(0, predictions[0])], source, "depth", 0)


class WithKeys(Scored):
    """Scored as a whole source."""

    keys, labels, classes = ("0", "1"), None, ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "pairs"}, "family pairs: no model is trained for it here"),
        ({"head": {"name": "psp"}}, "head.name: segmentation has no decoder 'psp'"),
        ({"head": {"name": "deeplabv3", "width": 3}}, "head.width: no such field"),
        ({"cfg": {"steps": 1, "batch_size": 8}}, "cfg.optim: missing"),
        ({"cfg": SEGMENTATION["cfg"] | {"step": 1}}, "cfg.step: no such field"),
    ],
)
def test_mistakes_are_one_line(changes, said):
    with pytest.raises(UserError, match=said) as error:
        train(Blocks(8), **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "sides", "size"),
    [
        ("voc2012_seg", (375, 500), (512, 512)),
        ("kitti", (375, 1242), (352, 704)),
        ("nyuv2", (480, 640), (416, 544)),
    ],
)
def test_the_benchmarks_recipes_make_their_crops(row, sides, size):
    ((name, recipe),) = config_lib.load_config("gvb").heads[row].items()
    tasks.find(suite.find(row).family).check_head(name, recipe["settings"])
    sample = {"image": np.zeros((*sides, 3), np.uint8)}
    if name == "deeplabv3":
        sample["mask"] = np.zeros(sides, np.uint8)
    else:
        sample["depth"] = np.full(sides, 500.0, np.float32)
        sample["depth"][::2] = 5.0
    made = config_lib.bind(recipe["transform"])(sample, np.random.default_rng(0))
    assert {field: value.shape[:2] for field, value in made.items()} == dict.fromkeys(made, size)
    if name == "depth":
        assert made["depth_valid"].mean() == 0.5
    cfg = recipe["cfg"]
    last = optim.learning_rate(cfg["optim"], cfg["steps"], cfg["steps"])
    assert last == pytest.approx(1e-4 if name == "deeplabv3" else 0.0)


def test_limits_come_from_the_source():
    def settings(given, source=None):
        return head_lib._checked_head(given, "depth", source or WithKeys())["settings"]

    limits = settings({"name": "depth"}, Subset(WithKeys(), [0]))
    assert limits == {"min_depth": 1.0, "max_depth": 6.0}
    assert settings({"name": "depth", "settings": {"max_depth": 9.0}})["max_depth"] == 9.0
    assert settings({"name": "panoptic"}) == {}
