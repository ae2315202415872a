#!/usr/bin/env bash
# The steps of a data config on Google Cloud Dataflow, by Apache Beam.
#
#   PROJECT=my-project REGION=europe-west4 BUCKET=gs://my-bucket IMAGE=my-image \
#     launch/dataflow.sh --config=configs/wide_world.py --workdir=/mnt/share/wide_world [--config.field=value ...]
#
# All workers, and this machine, see the data and the workdir under one path: a Filestore share, or a bucket by gcsfuse.
# IMAGE is a container with Beam's SDK for Python 3.11, this package and that mount.
#
# Untested: nothing of this script ran on Dataflow. Tested is the same runner with Beam's local processes (make test-beam).
# Not known: whether workers may mount a share in every network, and what renaming files costs on gcsfuse.
set -euo pipefail

for name in PROJECT REGION BUCKET IMAGE; do
  [[ ${!name-} ]] || { echo "error: $name is not set; see the head of $0" >&2; exit 2; }
done
python=${PYTHON:-.venv-beam/bin/python}
options=(
  --runner=DataflowRunner
  --project="$PROJECT"
  --region="$REGION"
  --temp_location="$BUCKET/tmp"
  --sdk_container_image="$IMAGE"
  --experiments=use_runner_v2
  --max_num_workers="${WORKERS:-50}"
)
exec "$python" -m intern_jax data run --runner=beam --beam="${options[*]}" "$@"
