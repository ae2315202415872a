"""Pairs in every layout that is opened are the quickstart's amateur's by one value of its config."""

import io
import json

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intern_jax import pipeline
from intern_jax.core.config import load_config, override, plain
from intern_jax.curation.filters import filter_pool
from intern_jax.curation.pack import pack
from intern_jax.curation.running import engine
from intern_jax.data.batches.stream import Stream
from intern_jax.data.make import text as tokenizer
from intern_jax.data.open.opening import open_data
from intern_jax.data.schema.sample import CorruptSample
from intern_jax.data.sources.pool import PoolSource

pytestmark = pytest.mark.filterwarnings("ignore")
OPEN = "intern_jax.data.open.opening:open_data"
COUNT = 4
TEXTS = [f"red apple {i}" for i in range(COUNT)]


def decode(record: bytes):
    """A sample of a record of one's own form."""
    from PIL import Image

    made = msgpack.unpackb(record)
    picture = np.asarray(Image.open(io.BytesIO(made["png"])))
    return {"image": picture, "texts": [made["text"]], "key": made["text"]}


def folders(place, png, _write_tar):
    for i, text in enumerate(TEXTS):
        (place / f"{i}.png").write_bytes(png(i))
        (place / f"{i}.txt").write_text(text)
    return {"data": place}


def table(suffix):
    def write(place, png, _write_tar):
        for i in range(COUNT):
            (place / f"{i}.png").write_bytes(png(i))
        rows = [(f"{i}.png", text) for i, text in enumerate(TEXTS)]
        if suffix == "jsonl":
            lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        else:
            lines = ["file_name,caption", *map(",".join, rows)]
        (place / f"list.{suffix}").write_text("\n".join(lines) + "\n")
        return {"data": place / f"list.{suffix}"}

    return write


def tar(place, png, write_tar):
    members = []
    for i, text in enumerate(TEXTS):
        members += [(f"{i}.png", png(i)), (f"{i}.txt", text.encode())]
    write_tar(place / "a-000.tar", members)
    return {"data": f"{place}/a-{{000..000}}.tar"}


def parquet(place, png, _write_tar):
    rows = pa.table({"image": [png(i) for i in range(COUNT)], "text": TEXTS})
    pq.write_table(rows, place / "a.parquet")
    return {"data": place}


def coco(place, png, _write_tar):
    for i in range(COUNT):
        (place / f"{i}.png").write_bytes(png(i))
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(COUNT)]
    captions = [{"id": i, "image_id": i, "caption": text} for i, text in enumerate(TEXTS)]
    (place / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return {"data": place}


def array_record(place, png, _write_tar):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(place / "a.array_record"), "group_size:1")
    for i, text in enumerate(TEXTS):
        writer.write(msgpack.packb({"png": png(i), "text": text}))
    writer.close()
    own = f"{__name__}:decode"
    return {"data": place, "decode": own, "family": "pairs"}


def tfds(place, png, _write_tar):
    import tensorflow_datasets as tfds

    class Captions(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = place

        def _info(self):
            picture = tfds.features.Image(shape=(6, 8, 3), encoding_format="png")
            features = {"image": picture, "captions": tfds.features.Sequence(tfds.features.Text())}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, text in enumerate(TEXTS):
                yield i, {"image": io.BytesIO(png(i)), "captions": [text, "fruit"]}

    Captions(data_dir=str(place), file_format="array_record").download_and_prepare()
    fields = {"image": "image", "texts": "captions"}
    return {"data": "tfds:captions", "data_dir": place, "fields": fields}


def packed(place, png, write_tar):
    source = {"fn": OPEN, **{k: str(v) for k, v in folders(place, png, write_tar).items()}}
    return pack(source, place / "pool", runner=engine.Local(1))


def pool(place, png, write_tar):
    return {"data": packed(place, png, write_tar).folder}


def index(place, png, write_tar):
    made = packed(place, png, write_tar)
    return {"data": filter_pool(made.folder, place / "kept", runner=engine.Local(1)).folder}


LAYOUTS = {
    "text files": folders,
    "csv": table("csv"),
    "jsonl": table("jsonl"),
    "tars in place": tar,
    "parquet": parquet,
    "coco captions": coco,
    "records of one's own": array_record,
    "tfds": tfds,
    "a pool": pool,
    "an index": index,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_the_amateurs_by_one_value(layout, tmp_path, png, write_tar):
    given = LAYOUTS[layout](tmp_path, png, write_tar)
    spec = {"fn": OPEN} | {k: v if isinstance(v, dict) else str(v) for k, v in given.items()}
    config = override(load_config("quickstart"), [f"amateur.data.pairs.sources=[{spec!r}]"])
    override(config, ["amateur.data.pairs.batch_size=8"])
    settings = pipeline.check(plain(config))["amateur"]["data"]
    with Stream(settings, rows=(0, 1)) as stream:
        batch = stream.batch_at(0)["pairs"]
    assert batch["image1"].shape == batch["image2"].shape == (8, 32, 32, 3)
    words = tokenizer.load("embedded")
    # Masked words are known: the whole texts, to compare.
    whole = np.where(batch["targets1"] < 0, batch["tokens1"], batch["targets1"])
    read = {words.decode(tokens) for tokens in whole}
    assert read == set(TEXTS)  # two epochs of four


def test_a_workdir_of_data_run_is_its_last_index(tmp_path, png, write_tar):
    source = {"fn": OPEN, **{k: str(v) for k, v in folders(tmp_path, png, write_tar).items()}}
    from intern_jax.curation import pipeline as steps

    curation = "intern_jax.curation"
    config = {
        "steps": ("pack", "filter"),
        "pack": {"fn": f"{curation}.pack:pack", "source": source},
        "filter": {"fn": f"{curation}.filters:filter_pool", "min_words": 3},
    }
    workdir = tmp_path / "run"
    done = steps.run(config, workdir, engine.Local(1))["steps"]
    opened = open_data(workdir)
    assert isinstance(opened, PoolSource) and len(opened) == COUNT
    assert opened.index.folder == workdir / done[1]["folder"]
    (workdir / "pipeline.json").write_text('{"steps": [{"name": "pack"}]}')
    with pytest.raises(Exception, match=r"pipeline\.json: names no pool"):
        open_data(workdir)


def test_a_record_of_pairs_without_a_text_is_damaged(tmp_path, png, write_tar):
    made = packed(tmp_path, png, write_tar)
    source = PoolSource(made.folder)
    kept = source.pool.records
    source.pool.records = [{**kept[i], "texts": []} if i == 1 else kept[i] for i in range(COUNT)]
    assert source[0]["texts"] == [TEXTS[0]]
    with pytest.raises(CorruptSample) as fault:
        source[1]
    assert fault.value.cause == "no caption"
