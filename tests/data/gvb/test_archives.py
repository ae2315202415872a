"""ImageNet out of its tars: places against Python's tarfile, hostile and damaged tars, the kept index."""

import io
import os
import tarfile

import make
import numpy as np
import pytest

from intern_jax.core.config import UserError
from intern_jax.data.gvb.classification import imagenet
from intern_jax.data.gvb.classification.readers import READERS
from intern_jax.data.read import archives
from intern_jax.data.schema.sample import CorruptSample


@pytest.fixture
def root(tmp_path):
    make.make_imagenet(tmp_path)
    return tmp_path


def load(root, split="train"):
    return READERS["imagenet"].read(root, split)


def fails(root, said, split="train"):
    with pytest.raises(UserError) as error:
        load(root, split)
    assert said in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_places_are_tarfiles(root):
    path = root / "imagenet/ILSVRC2012_img_train.tar"
    found = {m.name: m for m in imagenet._indexed(path, imagenet.TRAIN_PICTURE, nested=True)}
    data, count = path.read_bytes(), 0
    with tarfile.open(path) as outer:
        for entry in outer:
            with tarfile.open(fileobj=io.BytesIO(outer.extractfile(entry).read())) as inner:
                for picture in inner:
                    member = found[picture.name]
                    wanted = inner.extractfile(picture).read()
                    assert data[member.offset : member.offset + member.size] == wanted
                    count += 1
    assert count == len(found) == 32


def test_class_numbers_follow_the_wordnet_ids(root):
    source = load(root)
    assert source.classes == make.IMAGENET
    assert all(
        source.classes[n] == key[:9] for key, n in zip(source.keys, source.labels, strict=True)
    )


def test_index_is_kept(root, monkeypatch):
    folder = root / "imagenet"
    first, index = load(root), folder / "ILSVRC2012_img_train.tar.index.npz"
    assert index.exists() and not list(folder.glob("*.tmp"))
    monkeypatch.setattr(archives, "members", lambda *_: pytest.fail("the tar is read again"))
    again = load(root)
    assert again.keys == first.keys
    np.testing.assert_array_equal(again[5]["image"], first[5]["image"])
    monkeypatch.undo()
    # One of another file, one that is none, and one whose places lie outside of the file.
    content = dict(np.load(index))
    outside = content | {"offsets": content["offsets"] + 10**9}
    foreign = content | {"names": np.array([b"../../x.JPEG"] * len(content["names"]))}
    np.savez(index, **outside)
    assert load(root)[5]["image"].shape == first[5]["image"].shape
    np.savez(index, **foreign)
    assert load(root).keys == first.keys
    index.write_bytes(b"PK\3\4 no archive")
    assert load(root).keys == first.keys
    index.write_bytes(index.read_bytes()[:300])
    assert load(root).keys == first.keys
    tar = folder / "ILSVRC2012_img_train.tar"
    os.utime(tar, ns=(1, 1))
    calls = []
    members = archives.members
    monkeypatch.setattr(archives, "members", lambda *a: calls.append(a) or members(*a))
    load(root)
    assert calls


def test_index_of_a_folder_that_cannot_be_written(root, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(imagenet.os, "replace", refused)
    assert len(load(root)) == 32
    assert not list((root / "imagenet").glob("*.index.npz*"))


def special(kind, name="n01440764_1.JPEG"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    return out.getvalue()


def test_hostile_tars(root):
    tar = root / "imagenet/ILSVRC2012_img_train.tar"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        tar.write_bytes(make.tar_of([("n01440764.tar", special(kind))]))
        fails(root, "'n01440764_1.JPEG' is not a plain file")
        tar.write_bytes(special(kind, "n01440764.tar"))
        fails(root, "'n01440764.tar' is not a plain file")
    for name in (
        "../n01440764_1.JPEG",
        "/etc/n01440764_1.JPEG",
        "a.txt",
        "n01440764_1.JPEG" + "x" * 200,
    ):
        tar.write_bytes(make.tar_of([("n01440764.tar", make.tar_of([(name, b"x")]))]))
        fails(root, "is not a file of this data set" if len(name) < 100 else "is not a plain file")
    tar.write_bytes(make.tar_of([("notes.txt", b"x")]))
    fails(root, "'notes.txt' is not a file of this data set")
    tar.write_bytes(make.tar_of([("n01443537.tar", make.tar_of([("n01440764_1.JPEG", b"x")]))]))
    fails(root, "'n01440764_1.JPEG' lies in n01443537.tar")
    # A size that leads out of its tar, or is no octal number.
    for size in (b"00000777777\0", b"\x80" + b"\0" * 11):
        inner = bytearray(make.tar_of([("n01440764_1.JPEG", b"x")]))
        inner[124:136] = size
        inner[148:156] = b"%06o\0 " % archives._checksum(bytes(inner[:512]))
        tar.write_bytes(make.tar_of([("n01440764.tar", bytes(inner))]))
        fails(root, "ends inside of" if size[0] < 128 else "damaged at byte 512")


def test_damaged_tars(root):
    tar = root / "imagenet/ILSVRC2012_img_train.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    fails(root, "ends inside of 'n0")
    tar.write_bytes(whole[:100])
    fails(root, "ends without its last block")
    tar.write_bytes(whole[:3] + b"\xff" + whole[4:])
    fails(root, "damaged at byte 0; get ILSVRC2012_img_train.tar again")
    only = make.tar_of([(f"{make.IMAGENET[0]}_1.JPEG", b"x")])
    tar.write_bytes(make.tar_of([(f"{make.IMAGENET[0]}.tar", only)]))
    fails(root, "n01443537.tar is missing or empty; 3 of 4 classes are not there")
    unknown = make.tar_of([("n09999999_1.JPEG", b"x")])
    tar.write_bytes(make.tar_of([("n09999999.tar", unknown)]))
    fails(root, "'n09999999_1.JPEG' is of no class of the devkit")
    truth = next(root.rglob("*ground_truth.txt"))
    lines = truth.read_text().splitlines(keepends=True)
    truth.write_text("".join(lines[:-1]))
    fails(root, "23 answers for 24 pictures", "test")
    truth.write_text("".join(["1001\n", *lines[1:]]))
    fails(root, "1001 is not a number of meta.mat", "test")
    tar.unlink()
    fails(
        root, "ILSVRC2012_img_train.tar: missing; get ILSVRC2012_img_train.tar from image-net.org"
    )


def test_tar_that_shrinks_later(root):
    source = load(root)
    tar = root / "imagenet/ILSVRC2012_img_train.tar"
    os.truncate(tar, 3000)
    with pytest.raises(CorruptSample, match=r"n02123045_10033\.JPEG: truncated picture"):
        source[len(source) - 1]
