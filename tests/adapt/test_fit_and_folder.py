"""Short fits on a tiny task, and a user's folder from pictures to a saved model that answers."""

import dataclasses
import inspect
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import intern_jax
from intern_jax import __main__ as cli
from intern_jax.adapt import fit
from intern_jax.adapt.folder import adapt_folder
from intern_jax.adapt.head import train_on_outputs
from intern_jax.adapt.probe import fit_probe, fold_numbers
from intern_jax.core import mesh as mesh_lib
from intern_jax.core.config import UserError
from intern_jax.data.make.views import centre_crop
from intern_jax.data.sources.folder import ImageFolder
from intern_jax.metrics.classification import wilson_interval
from intern_jax.models import zoo
from intern_jax.models.backbone import LAYERS
from intern_jax.pipeline import scores
from intern_jax.weights.folder import check_out, save_model
from intern_jax.weights.model import Model
from intern_jax.weights.opening import start
from intern_jax.weights.preprocess import Preprocess

TINY = {"name": "embedded_tiny"}
COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 40, 40)}


def picture(colour: tuple[int, int, int], rng: np.random.Generator, size: int = 40) -> np.ndarray:
    noise = rng.integers(-30, 30, (size, size, 3))
    return np.clip(np.array(colour)[None, None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of coloured noise, twelve pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for index in range(12):
            Image.fromarray(picture(colour, rng)).save(root / name / f"{index}.png")
    return root


@pytest.mark.medium
@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_folder_to_model(folder, tmp_path, method):
    summary = adapt_folder(
        folder, tmp_path / "model", init="embedded_tiny", method=method, steps=15, batch_size=12
    )
    assert summary["n_train"] == 36  # all of them
    # A probe of each fifth by the others; a network of one fifth, for the time it takes.
    assert summary["n_validation"] == (36 if method == "probe" else 8)
    assert summary["interval_low"] <= summary["accuracy"] <= summary["interval_high"]
    assert summary["interval_low"] < summary["interval_high"]
    model = intern_jax.load(tmp_path / "model")
    rng = np.random.default_rng(1)
    answers = model.predict([picture(colour, rng) for colour in COLOURS.values()])
    assert set(answers[0]["scores"]) == set(COLOURS)
    assert abs(sum(answers[0]["scores"].values()) - 1) < 1e-5
    if method == "probe":  # coloured noise is separable by random features
        assert summary["accuracy"] == 1.0
        assert [a["label"] for a in answers] == list(COLOURS)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "probe or finetune"),
        ({"folds": 1}, "folds: 1; write 2 at least, 5 are usual"),
        ({"readout": "pool"}, "readout: no 'pool'; did you mean pooled"),
        ({"init": "no_such_model"}, "no_such_model"),
        ({"backbone": "my_net:Net"}, "embedded_tiny is a network of the zoo; leave backbone out"),
        ({"data": "missing_folder"}, "missing_folder"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, arguments, message):
    arguments = {"data": folder, "init": "embedded_tiny"} | arguments
    with pytest.raises(UserError, match=message) as error:
        adapt_folder(out=tmp_path / "model", **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.medium
@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_bad_pictures_are_told_before_the_work_and_left_out(folder, tmp_path, caplog, method):
    shutil.copytree(folder, tmp_path / "data")
    red = tmp_path / "data" / "red"
    (red / "0.png").write_bytes((red / "0.png").read_bytes()[:60])
    (red / "1.png").write_text("no picture")
    few = {"steps": 2, "batch_size": 8} if method == "finetune" else {}
    summary = adapt_folder(
        tmp_path / "data", tmp_path / "model", init="embedded_tiny", method=method, **few
    )
    assert summary["n_train"] == 12 * len(COLOURS) - 2
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 2 and all("1 left out" in line and "red/" in line for line in told)


@pytest.mark.medium
def test_a_class_without_a_picture_that_can_be_read_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    for path in (tmp_path / "data" / "red").iterdir():
        path.write_text("no picture")
    with pytest.raises(UserError, match="none of the pictures of class 'red' can be read"):
        adapt_folder(tmp_path / "data", tmp_path / "model", init="embedded_tiny")
    for path in (tmp_path / "data").glob("*/*"):
        path.write_text("no picture")
    with pytest.raises(UserError, match="no sample can be read; see above"):
        adapt_folder(tmp_path / "data", tmp_path / "model", init="embedded_tiny")


def hold_other_files(out):
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def be_a_file(out):
    out.write_text("mine")


def lie_below_a_file(out):
    out.parent.rmdir()
    out.parent.write_text("mine")


@pytest.mark.medium
@pytest.mark.parametrize("make", [hold_other_files, be_a_file, lie_below_a_file])
@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_an_out_that_cannot_be_written_is_refused_before_the_work(
    folder, tmp_path, monkeypatch, make, method
):
    def worked(*_args, **_settings):
        raise AssertionError("a picture was read")

    monkeypatch.setattr("intern_jax.adapt.folder.open_data", worked)
    out = tmp_path / "above" / "model"
    out.parent.mkdir()
    make(out)
    with pytest.raises(UserError, match=r"name (a new|another) folder") as error:
        adapt_folder(folder, out, init="embedded_tiny", method=method)
    assert "\n" not in str(error.value)


def test_a_check_of_out_leaves_nothing_behind(tmp_path):
    check_out(tmp_path / "a" / "b" / "model")
    assert not list(tmp_path.iterdir())
    # What a try before left of a model is no reason to refuse.
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors.tmp").write_bytes(b"half")
    check_out(tmp_path / "model")


@pytest.mark.medium
def test_labels_of_a_table_are_learnt_as_those_of_class_folders(folder, tmp_path):
    rows = [f"{name}/{index}.png,{name}" for name in COLOURS for index in range(12)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file,label", *rows]))
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    by_folder = adapt_folder(folder, tmp_path / "first", init="embedded_tiny", l2=(0.1,))
    by_table = adapt_folder(table, tmp_path / "second", init="embedded_tiny", l2=(0.1,))
    assert by_table | {"model": ""} == by_folder | {"model": ""}
    first, second = (intern_jax.load(tmp_path / name) for name in ("first", "second"))
    assert first.classes == second.classes == tuple(COLOURS)
    shown = folder / "red" / "0.png"
    assert first.predict(shown)[0]["scores"] == second.predict(shown)[0]["scores"]


@pytest.mark.medium
def test_data_without_labels_is_refused(folder, tmp_path):
    for index in range(2):
        shutil.copy(folder / "red" / f"{index}.png", tmp_path)
        (tmp_path / f"{index}.txt").write_text("a red square")
    with pytest.raises(UserError, match=r"every picture needs a label.*found: none.*class folders"):
        adapt_folder(tmp_path, tmp_path / "out", init="embedded_tiny")
    (tmp_path / "one.csv").write_text("file,label\n0.png,red\n1.png,red\n")
    with pytest.raises(UserError, match=r"of two classes at least .found: 1 classes"):
        adapt_folder(tmp_path / "one.csv", tmp_path / "out", init="embedded_tiny")


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit):
        cli.main(["adapt", "--help"])
    shown = capsys.readouterr().out.replace("-\n", "-")  # help breaks lines at a hyphen
    for name in inspect.signature(adapt_folder).parameters:
        assert f"--{name.replace('_', '-')}" in shown, name


@pytest.mark.parametrize(
    ("spec", "side"),
    [
        ({"name": "embedded_tiny"}, 32),
        ({"name": "generalist"}, 32),
        ({"name": "generalist", "branch": {"name": "mn_b4"}}, 224),
        ({"name": "resnet18"}, 224),
        ({"name": "vit_ti_16", "image_size": 96}, 96),
        ({"name": "uninet_b0"}, 160),
    ],
)
def test_a_network_of_the_zoo_has_its_usual_size(spec, side):
    assert zoo.usual_side(spec, zoo.build(spec)) == side


def test_a_zoo_start_reads_pictures_of_the_network_s_usual_size():
    assert start("embedded_tiny").preprocess == Preprocess(32)
    assert start("resnet18").preprocess == Preprocess(224)


def test_the_last_stage_s_folder_reads_as_it_was_trained(caplog):
    caplog.set_level("INFO")
    views = "intern_jax.data.make.views:"
    for function, rule in (("centre_crop", "short"), ("classification", "squash")):
        found = scores._reads({"fn": views + function, "size": 24}, "web")
        assert found == Preprocess(24, rule)
    own = Preprocess(24, "short", 0.8, "bicubic", (0.1, 0.2, 0.3), (0.9, 0.5, 0.7))
    assert scores._reads({"fn": scores.OWN_VIEW, **own.plain}, "web") == own
    assert scores._reads({"fn": "intern_jax.data.make.dense:crop", "size": [8, 9]}, "web") is None
    assert not caplog.messages
    assert scores._reads({"fn": "my_views:zoom", "size": 24}, "web") == Preprocess(24)
    assert caplog.messages[0].startswith("web: how my_views:zoom resizes a picture is not known")


@pytest.mark.parametrize("shape", [(83, 61), (61, 83), (40, 40), (33, 100)])
def test_gvb_s_view_and_the_libraries_differ_by_half_a_pixel_at_most(shape):
    """On a ramp, a shift of half a pixel of the result changes values by half the ramp's step."""
    rows, columns = (np.arange(n)[:, None] * 200 / max(shape) for n in shape)
    image = np.stack([rows + 0 * columns.T, 0 * rows + columns.T, 0 * rows + 0 * columns.T], -1)
    image = image.round().astype(np.uint8)
    ours = centre_crop({"image": image, "label": 0}, None, size=32)["image"].astype(float)
    theirs = Preprocess(32, "short").view(image).astype(float)
    step = 200 / max(shape) * min(shape) / 32
    assert np.abs(ours - theirs).max() <= step / 2 + 2


@pytest.mark.medium
def test_a_class_of_one_picture_is_learnt_but_not_scored(folder, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(folder, copy)
    for index in range(1, 12):
        (copy / "red" / f"{index}.png").unlink()
    summary = adapt_folder(copy, tmp_path / "model", init="embedded_tiny")
    assert (summary["n_train"], summary["n_validation"]) == (25, 24)
    answer = intern_jax.load(tmp_path / "model").predict(copy / "red" / "0.png")
    assert answer[0]["label"] == "red"
    for name in COLOURS:
        for index in range(1, 12):
            (copy / name / f"{index}.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match="no class has two images"):
        adapt_folder(copy, tmp_path / "model", init="embedded_tiny")


@pytest.mark.medium
def test_frozen_head_learns_on_cached_maps():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
    images[:, :, 16:] //= 8  # a dark right half is class 1
    mask = np.zeros((24, 32, 32), np.uint8)
    mask[:, :, 16:] = 1
    maps = jax.device_get(Model.random(TINY, 0).outputs(images, "dense", LAYERS))
    assert set(maps) == set(LAYERS)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    model = train_on_outputs(
        {**maps, "mask": mask},
        32,
        family="segmentation",
        num_classes=2,
        cfg=fit.settings(60, 8, 1e-2),
        seed=0,
        mesh=mesh,
    )
    out = model.outputs_of(maps).argmax(-1)
    assert out.shape == mask.shape and (out == mask).mean() > 0.9


@pytest.mark.medium
def test_a_models_own_normalisation_stays_with_it(folder, tmp_path):
    """Features, fine-tuning and the saved folder all read pictures as the starting model does."""
    pictures = Preprocess(32, mean=(0.1, 0.2, 0.3), std=(0.9, 0.5, 0.7))
    before = Model.random(TINY, 0)
    backbone = dataclasses.replace(before, preprocess=pictures)
    model = intern_jax.load(save_model(tmp_path / "start", backbone))
    rng = np.random.default_rng(0)
    images = np.stack([picture(colour, rng, 32) for colour in COLOURS.values()])
    ours = backbone.outputs(images, "cls", ("pooled",))["pooled"]
    np.testing.assert_allclose(model.features(list(images)), ours, rtol=1e-5, atol=1e-6)
    others = before.outputs(images, "cls", ("pooled",))["pooled"]
    assert np.abs(ours - others).max() > 0.01
    assert len({before.digest, backbone.digest}) == 2 and model.digest == backbone.digest
    tuned = fit.train_model(
        TINY,
        ImageFolder(folder),
        family="classification",
        size=32,
        flip=False,
        cfg=fit.settings(1, 12, 0.0),
        seed=0,
        mesh=mesh_lib.make_mesh(data=1),
        init=backbone,
    )
    assert tuned.predict(images).shape == (3, 3)
    expected = model_pictures(images, pictures.mean, pictures.std)
    np.testing.assert_allclose(tuned.stage.pictures(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_the_score_is_that_of_models_which_did_not_see_the_picture(tmp_path, method):
    """On noise, where any other view of a picture or another head would guess otherwise."""
    rng = np.random.default_rng(0)
    for name in COLOURS:
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(30):
            noise = rng.integers(0, 256, (5, 9, 3)).astype(np.uint8)
            noise = Image.fromarray(noise).resize((60, 40), Image.Resampling.NEAREST)
            noise.save(tmp_path / "data" / name / f"{index}.png")
    pictures = Preprocess(24, "short", 0.8, "bicubic", (0.1, 0.2, 0.3), (0.9, 0.5, 0.7))
    before = dataclasses.replace(Model.random(TINY, 0), preprocess=pictures)
    save_model(tmp_path / "start", before)
    settings = {"steps": 3, "batch_size": 12} if method == "finetune" else {"l2": (1e-3,)}

    def adapted(data, out):
        return adapt_folder(data, out, init=tmp_path / "start", method=method, folds=2, **settings)

    made, source = adapted(tmp_path / "data", tmp_path / "out"), ImageFolder(tmp_path / "data")
    parts, right, scored = fold_numbers(source.labels, 2, 0), 0, 0
    for part in range(2 if method == "probe" else 1):
        # The same from a folder without the pictures of this part.
        others = tmp_path / f"without_{part}" / "data"
        shutil.copytree(tmp_path / "data", others)
        held = [source.keys[i] for i in np.flatnonzero(parts == part)]
        for key in held:
            (others / key).unlink()
        adapted(others, tmp_path / f"out_{part}")
        model = intern_jax.load(tmp_path / f"out_{part}")
        answers = model.predict([tmp_path / "data" / key for key in held])
        right += sum(a["label"] == k.split("/")[0] for a, k in zip(answers, held, strict=True))
        scored += len(held)
    assert made["n_validation"] == scored and 0 < right < scored
    assert right / scored == pytest.approx(made["accuracy"])
    model = intern_jax.load(tmp_path / "out")
    # Augmented views squeeze a picture, and so does what is fine-tuned with them.
    whole = Preprocess(24, mean=pictures.mean, std=pictures.std)
    assert model.preprocess == (pictures if method == "probe" else whole)
    assert model.provenance["accuracy"] == made["accuracy"] and model.name == "out"
    if method == "probe":  # and the saved one has seen all of them
        answers = model.predict([tmp_path / "data" / key for key in source.keys])
        known = [a["label"] == k.split("/")[0] for a, k in zip(answers, source.keys, strict=True)]
        assert np.mean(known) > made["accuracy"] + 0.2


@pytest.mark.medium
@pytest.mark.parametrize(
    "readout",
    [
        *("pooled", "layers", "grids", "pooled:dense", "pooled:dense+cls"),
        *("layers:classification+segmentation@layer4+pooled", "grids:cls+dense/cls@layer3"),
    ],
)
def test_a_saved_probe_reads_what_it_was_fitted_on(folder, tmp_path, readout):
    """Of a generalist, whose second branch is read too."""
    spec = {"name": "generalist", "branch": TINY}
    model = dataclasses.replace(Model.random(spec, 3), preprocess=Preprocess(32))
    save_model(tmp_path / "start", model)
    made = adapt_folder(folder, tmp_path / "out", tmp_path / "start", readout=readout, l2=(0.1,))
    source, saved = ImageFolder(folder), intern_jax.load(tmp_path / "out")
    images = [source[i]["image"] for i in range(len(source))]
    seen = model.features(images, output=readout)
    probe = fit_probe(seen, source.labels, 3, l2_grid=(0.1,))
    expected = np.exp(probe.logits(seen).astype(np.float64))
    expected /= expected.sum(axis=1, keepdims=True)
    found = [[a["scores"][name] for name in source.classes] for a in saved.predict(images)]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert saved.head.settings == ({} if readout == "pooled" else {"readout": readout})
    assert (
        saved.head.variables["params"]["linear"]["classifier"]["kernel"].shape[0] == seen.shape[1]
    )
    assert made["readout"].startswith(f"{readout}, {seen.shape[1]:,} features, 0.00")
    assert made["readout"].endswith(" G multiply-adds per picture")


@pytest.mark.medium
def test_a_generalist_without_a_branch_of_classes_can_be_read_by_name(folder, tmp_path):
    spec = {"name": "generalist", "branch": TINY, "branches": ["people", "cars", "sky"]}
    model = dataclasses.replace(Model.random(spec, 3), preprocess=Preprocess(32))
    save_model(tmp_path / "start", model)
    named = {"readout": "pooled:sky+people", "l2": (0.1,)}
    made = adapt_folder(folder, tmp_path / "out", tmp_path / "start", **named)
    assert made["readout"].startswith("pooled:sky+people, 64 features, ")
    saved = intern_jax.load(tmp_path / "out")
    answers = saved.predict(sorted((folder / "red").iterdir()))
    assert {answer["label"] for answer in answers} == {"red"}
    with pytest.raises(UserError, match="readout: no branch 'classification'; it has people"):
        adapt_folder(folder, tmp_path / "out", tmp_path / "start", l2=(0.1,))


@pytest.mark.medium
def test_a_readout_of_a_branch_that_is_not_there_is_refused_before_a_picture_is_read(
    folder, tmp_path, monkeypatch
):
    spec = {"name": "generalist", "branch": TINY}
    save_model(tmp_path / "start", dataclasses.replace(Model.random(spec, 3)))
    monkeypatch.delattr(ImageFolder, "__getitem__")
    with pytest.raises(UserError, match="readout: 'pooled:sky': no branch 'sky'; it has cls, de"):
        adapt_folder(folder, tmp_path / "out", tmp_path / "start", readout="pooled:sky")


def model_pictures(images, mean, std):
    return (images / 255.0 - np.array(mean)[None, None]) / np.array(std)[None, None]


def split_folder(folder, root, **counts):
    """The pictures of `folder` dealt to splits: {split: pictures of each class}."""
    for name in COLOURS:
        files = iter(sorted((folder / name).iterdir()))
        for split, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for _ in range(count):
                path = next(files)
                shutil.copy(path, root / split / name / path.name)
    return root


@pytest.mark.medium
@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_a_folder_of_splits_is_learnt_from_train_and_val_and_scored_on_test(
    folder, tmp_path, caplog, method
):
    data = split_folder(folder, tmp_path / "data", train=5, valid=3, test=4)
    settings = {"steps": 15, "batch_size": 12} if method == "finetune" else {}
    settings |= {"init": "embedded_tiny", "method": method}
    caplog.set_level("INFO", logger="intern_jax")
    made = adapt_folder(data, tmp_path / "out", **settings)
    assert (made["n_train"], made["n_validation"]) == (24, 12)
    assert f"{data}: learns from the split train+val, and is scored on test" in caplog.messages
    assert not [line for line in caplog.messages if "copy" in line]
    model = intern_jax.load(tmp_path / "out")
    assert set(model.predict(picture(COLOURS["red"], np.random.default_rng(0)))[0]["scores"]) == {
        *COLOURS
    }
    # The score is of the very model that is saved, and its interval of as many pictures.
    files = sorted((data / "test").glob("*/*.png"))
    right = sum(
        a["label"] == f.parent.name for a, f in zip(model.predict(files), files, strict=True)
    )
    assert made["accuracy"] == right / 12
    interval = made["interval_low"], made["interval_high"]
    assert interval == pytest.approx(wilson_interval(right, 12))
    if method == "finetune":
        return
    # And the model is that of train and val as one set.
    adapt_folder(data, tmp_path / "whole", split="train+val", **settings)
    answers = [intern_jax.load(tmp_path / one).predict(files) for one in ("out", "whole")]
    scores = [[[a["scores"][name] for name in COLOURS] for a in each] for each in answers]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-3)


@pytest.mark.medium
def test_splits_of_which_some_are_missing(folder, tmp_path):
    settings = {"init": "embedded_tiny", "l2": (0.1,)}
    data = split_folder(folder, tmp_path / "val", train=5, val=3)
    made = adapt_folder(data, tmp_path / "out", **settings)
    assert (made["n_train"], made["n_validation"]) == (15, 9)  # without test, of val
    data = split_folder(folder, tmp_path / "train", train=5)
    made = adapt_folder(data, tmp_path / "out", **settings)
    assert (made["n_train"], made["n_validation"]) == (15, 15)
    for path in (data / "train" / "red").iterdir():
        path.unlink()
    split_folder(folder, data, test=2)
    with pytest.raises(UserError, match="class 'red' has no picture to learn from; add some"):
        adapt_folder(data, tmp_path / "out", **settings)
    data = split_folder(folder, tmp_path / "broken", train=5, test=3)
    for path in (data / "test").glob("*/*"):
        path.write_text("no picture")
    with pytest.raises(UserError, match="no picture that is to be scored can be read"):
        adapt_folder(data, tmp_path / "out", **settings)


@pytest.mark.medium
def test_splits_may_be_asked_for_as_one_set_on_the_command_line(folder, tmp_path, capsys):
    data = split_folder(folder, tmp_path / "data", train=5, test=3)
    common = ["adapt", f"--data={data}", f"--out={tmp_path / 'out'}", "--init=embedded_tiny"]
    cli.main([*common, "--split=train+test", "--l2=(0.1,)"])
    assert "n_train: 24\nn_validation: 24\n" in capsys.readouterr().out
    nested = tmp_path / "nested"
    (nested / "a").mkdir(parents=True)
    for i, name in enumerate(COLOURS):
        (nested / "ab"[i % 2]).mkdir(exist_ok=True)
        shutil.copytree(folder / name, nested / "ab"[i % 2] / name)
    assert cli.main([*common, f"--data={nested}"]) != 0
    assert "say level=1 if the classes are a, b, or level=2 if they are" in capsys.readouterr().err
    cli.main([*common, f"--data={nested}", "--level=2", "--l2=(0.1,)"])
    assert "n_train: 36" in capsys.readouterr().out


@pytest.mark.medium
def test_exact_copies_that_raise_the_score_are_told(folder, tmp_path, caplog):
    data = split_folder(folder, tmp_path / "data", train=5, test=3)
    twin = data / "train" / "red" / "0.png"
    # The same pixels in another file.
    Image.open(twin).save(data / "test" / "red" / "twin.bmp")
    Image.open(twin).save(data / "test" / "blue" / "other.webp", lossless=True)
    settings = {"init": "embedded_tiny", "l2": (0.1,)}
    adapt_folder(data, tmp_path / "out", **settings)
    (known,) = [line for line in caplog.messages if "exact copy" in line]
    assert f"{data}: 2 of 11 scored pictures have an exact copy among those learnt from" in known
    (twofold,) = [line for line in caplog.messages if "more than one label" in line]
    assert "1 pictures are there with more than one label (as test/blue/other.webp" in twofold
    caplog.clear()
    copies = tmp_path / "copies"
    shutil.copytree(folder, copies)
    for i in range(6):
        shutil.copy(copies / "red" / "0.png", copies / "red" / f"copy{i}.png")
    adapt_folder(copies, tmp_path / "out", **settings)
    (known,) = [line for line in caplog.messages if "exact copy" in line]
    assert f"{copies}: 7 of 42 scored pictures have an exact copy" in known
