"""The quickstart's stages give the same losses on every mesh of 8 forced host devices as on one device."""

import importlib.util
import json
import pathlib
import sys

import pytest
from forced_devices import answer_of

HERE = pathlib.Path(__file__).resolve()
MESHES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2))
# Float32 sums in another order: the losses of the first steps differ by at most this share (3e-7 seen).
TOLERANCE = 1e-5


@pytest.mark.slow
def test_all_stages_on_all_meshes(tmp_path):
    losses = {}
    for mesh in MESHES:
        losses[mesh] = answer_of(HERE, json.dumps(mesh), tmp_path)
    one = losses[1, 1, 1]
    assert all(len(values) >= 2 for values in one.values())
    for mesh in MESHES[1:]:
        for stage, values in one.items():
            assert losses[mesh][stage] == pytest.approx(values, rel=TOLERANCE), (mesh, stage)


def main(mesh: list[int], folder: pathlib.Path) -> dict[str, list[float]]:
    """Losses by stage of the tiny config's stages on one mesh."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    spec = importlib.util.spec_from_file_location(
        "tiny", HERE.with_name("pipeline") / "test_pipeline.py"
    )
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    config = tiny.tiny_config()
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = mesh
    config.benchmark = None
    for name in config.stages:
        config[name].train.log_every = 1
        # Every mesh starts each stage from the arrays of its own run, so only the order of sums differs.
    config.expert_det.data.detection.batch_size = 8
    for name in ("expert_dense", "generalist", "merged", "squeeze"):
        config[name].data.dense.batch_size = 8
    workdir = folder / "x".join(map(str, mesh))
    tiny.pipeline.run(config, workdir)
    losses = {}
    for path in sorted(workdir.glob("seed0/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        losses[path.parent.name.rsplit("-", 1)[0]] = [row["loss"] for row in rows]
    return losses


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]))))
