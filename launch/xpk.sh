#!/usr/bin/env bash
# A run on a GKE cluster that xpk made: build the image, push it, submit the workload.
#
#   CLUSTER=... ZONE=... PROJECT=... TPU=v5litepod-16 IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/intern_jax:TAG \
#     launch/xpk.sh NAME --config=CONFIG --workdir=WORKDIR ...
#
# SLICES (1): how many slices of that type. RESTARTS (100): how often a run that lost a worker, or was stopped, starts
# again. WORKDIR lies on a volume that all workers share: attach one to the cluster with `xpk storage attach`; its
# mount point is what WORKDIR begins with. From the root of the checkout.
set -euo pipefail

if (($# < 2)); then
  echo "error: usage: $0 NAME --config=CONFIG --workdir=WORKDIR ...; see its head" >&2
  exit 2
fi
for variable in CLUSTER ZONE PROJECT TPU IMAGE; do
  [[ ${!variable-} ]] || { echo "error: $variable: not set; see the head of $0" >&2; exit 2; }
done
name=$1
shift
printf -v command ' %q' "$@"

docker build --file=launch/Dockerfile --build-arg=EXTRAS=tpu --tag="$IMAGE" .
docker push "$IMAGE"
xpk workload create --workload="$name" --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT" \
  --tpu-type="$TPU" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" \
  --command="python -m intern_jax run$command" \
  --max-restarts="${RESTARTS:-100}" --restart-on-exit-codes=75,76 \
  --termination-grace-period-seconds=120
