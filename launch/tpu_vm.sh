#!/usr/bin/env bash
# A run on a Cloud TPU VM or a slice of several: create, copy, install, run on all workers, start again after a loss.
#
#   launch/tpu_vm.sh create NAME ZONE TYPE VERSION [GCLOUD_OPTION ...]   # v5litepod-16 v2-alpha-tpuv5-lite --spot
#   launch/tpu_vm.sh run NAME ZONE --config=CONFIG --workdir=WORKDIR ...
#   launch/tpu_vm.sh delete NAME ZONE
#
# `create` asks for a queued resource of that name and waits for it; a TPU VM that is there already needs none.
# `run` copies the committed files of this checkout, so that every worker has the same. A slice of several hosts needs
# a WORKDIR that all of them share: SHARE=SERVER:/VOLUME mounts that NFS volume (Filestore) at /mnt/share.
# RESTARTS (100): how often a run that lost a worker, or was stopped, starts again. PROJECT: as gcloud's, if set.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
(($# >= 3)) || usage
verb=$1 name=$2 zone=$3
shift 3
where=(--zone="$zone" ${PROJECT:+--project="$PROJECT"})

on_all() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

create() {
  (($# >= 2)) || usage
  local state=
  gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" \
    --accelerator-type="$1" --runtime-version="$2" "${@:3}"
  until [[ $state == ACTIVE ]]; do
    state=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)')
    echo "$name: $state"
    case $state in
      ACTIVE) ;;
      FAILED | SUSPENDED | SUSPENDING) exit 1 ;;
      *) sleep "${POLL_SECONDS:-30}" ;;
    esac
  done
}

install() {
  local archive
  archive=$(mktemp -t intern_jax.XXXXXX.tar.gz)
  git archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$name:intern_jax.tar.gz" "${where[@]}" --worker=all
  rm -f "$archive"
  # shellcheck disable=SC2016 # its variables are the workers'
  on_all 'set -e; mkdir -p intern_jax; tar -xzf intern_jax.tar.gz -C intern_jax; cd intern_jax
    python=python3
    $python -c "import sys; sys.exit(sys.version_info < (3, 11))" || python=python3.11
    command -v $python >/dev/null || {
      sudo apt-get update --quiet; sudo apt-get install --yes --quiet python3.11-venv; }
    [ -d .venv ] || $python -m venv .venv
    pins=$(.venv/bin/python -c "import sys; print(311 if sys.version_info < (3, 12) else 312)")
    .venv/bin/pip install --quiet -e ".[tpu]" -c constraints/py$pins.txt'
  if [[ ${SHARE-} ]]; then
    on_all "set -e; sudo apt-get install --yes --quiet nfs-common; sudo mkdir -p /mnt/share
      mountpoint --quiet /mnt/share || sudo mount -t nfs $SHARE /mnt/share"
  fi
}

# Sets `codes`, what the workers ended with: gcloud's own is that of one worker, its messages name the others'.
run_once() {
  local messages command code=0
  messages=$(mktemp)
  printf -v command ' %q' "$@"
  on_all "cd intern_jax && exec .venv/bin/python -m intern_jax run$command" 2>&1 |
    sed -u "/^##### .* failed with exit status /w $messages" || code=$?
  codes=$(sed 's/.*exit status \([0-9]*\).*/\1/' "$messages")
  codes=${codes:-$code}
  rm -f "$messages"
}

run() {
  local n code codes
  install
  for ((n = 0; ; n++)); do
    run_once "$@"
    for code in $codes; do
      ((code == 0)) && exit 0
      # 75 stopped, 76 lost a worker, 137 and 143 killed, 255 no connection: each goes on from the last checkpoint.
      [[ $code =~ ^(75|76|137|143|255)$ ]] || exit "$code"
    done
    ((n < ${RESTARTS:-100})) || exit "$code"
    echo "exit codes $codes: starts again ($((n + 1)) of ${RESTARTS:-100})" >&2
    sleep "${PAUSE_SECONDS:-60}" # the other workers' processes notice the loss by then
  done
}

case $verb in
  create | run) "$verb" "$@" ;;
  delete) gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet ;;
  *) usage ;;
esac
