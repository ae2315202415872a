#!/usr/bin/env bash
# Several processes of one run on this machine (to try a run of several hosts, or one process a GPU).
#
#   launch/local.sh [--restarts=N] [--logs=DIR] PROCESSES COMMAND ...
#   launch/local.sh 2 .venv/bin/python -m intern_jax run --config=quickstart --workdir=runs/two
#
# Output goes to DIR/process-I.log (a temporary folder unless given) and, behind [I], to stdout. SIGTERM and Ctrl-C go
# to all processes. When one fails the others are ended, and its exit code is this script's. With --restarts, codes
# that mean "start again to resume" (75 stopped, 76 lost a process, 137 killed) start all again, at most N times.
# On GPUs give each process its own: COMMAND = bash -c 'CUDA_VISIBLE_DEVICES=$INTERN_JAX_PROCESS exec python ...'
set -uo pipefail

GRACE=60 # seconds between SIGTERM and SIGKILL: more than it takes a process to notice that another is lost
restarts=0
logs=
while [[ ${1-} == --* ]]; do
  case $1 in
    --restarts=*) restarts=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    *) echo "error: $1: no such option; see the head of $0" >&2; exit 2 ;;
  esac
  shift
done
if [[ ! ${1-} =~ ^[1-9][0-9]*$ || $# -lt 2 || ! $restarts =~ ^[0-9]+$ ]]; then
  echo "error: usage: $0 [--restarts=N] [--logs=DIR] PROCESSES COMMAND ..." >&2
  exit 2
fi
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "error: $0 needs bash 5.1 or newer; this is $BASH_VERSION" >&2
  exit 2
fi
processes=$1
shift
logs=${logs:-$(mktemp -d -t intern_jax.XXXXXX)}
mkdir -p "$logs" || exit 2

declare -A running=()
writers=()
stopping=
tell() { for pid in "${!running[@]}"; do kill -s "$1" "$pid" 2>/dev/null; done; }
trap 'stopping=yes; tell TERM' TERM INT

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Run all processes to their end; the code of the first that failed.
attempt() {
  local port out first=0 ended code timer=
  port=$(free_port) || return 1
  for ((i = 0; i < processes; i++)); do
    exec {out}> >(trap '' INT TERM; tee -a "$logs/process-$i.log" | sed -u "s/^/[$i] /")
    writers+=($!)
    INTERN_JAX_COORDINATOR=127.0.0.1:$port INTERN_JAX_PROCESSES=$processes INTERN_JAX_PROCESS=$i \
      JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port \
      "$@" >&"$out" 2>&1 &
    running[$!]=$i
    exec {out}>&-
  done
  [[ $stopping ]] && tell TERM
  while ((${#running[@]})); do
    ended=
    wait -n -p ended "${!running[@]}"
    code=$?
    [[ ${ended-} ]] || continue # a signal, which the trap has passed on
    unset "running[$ended]"
    if ((code && !first)); then
      first=$code
      tell TERM
      (sleep "$GRACE"; tell KILL) >/dev/null 2>&1 &
      timer=$!
    fi
  done
  [[ $timer ]] && kill "$timer" 2>/dev/null
  # For the last lines, but not for ever: a stray child of a process may hold its output open.
  for ((n = 0; n < 50; n++)); do
    kill -0 "${writers[@]}" 2>/dev/null || break
    sleep 0.1
  done
  writers=()
  return "$first"
}

for ((again = 1; ; again++)); do
  attempt "$@"
  code=$?
  [[ $code =~ ^(75|76|137)$ && ! $stopping ]] && ((again <= restarts)) || exit "$code"
  echo "exit code $code: starts again ($again of $restarts)" >&2
done
