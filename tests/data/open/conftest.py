"""Pictures and tars that the tests of the opener write."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded(seed):
    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def pixels():
    """A function of a seed: the picture uint8 [6,8,3]."""
    return picture


@pytest.fixture
def png():
    """A function of a seed: the bytes of its picture."""
    return encoded


@pytest.fixture
def write_tar():
    """A function that writes a tar of (name, bytes) or (TarInfo, bytes) with Python's own writer."""

    def write(path, members, **options):
        with tarfile.open(path, "w", **options) as tar:
            for name, data in members:
                info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
                if data is not None:
                    info.size = len(data)
                tar.addfile(info, None if data is None else io.BytesIO(data))
        return path

    return write
