"""Runs on a Ray cluster: the records of one machine, also where a worker or the driver is lost."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from conftest import PACKAGES
from filelock import FileLock
from typer.testing import CliRunner

from asg import AsgError, records
from asg.config import make_config
from asg.controllers.learned import load_policy
from asg.run import run
from asg_book import cluster
from asg_book.cli import app
from asg_book.profiles import PROFILES
from asg_book.workers import in_workers

ARGUMENTS = ["reproduce", "--experiment", "trials_large", "--profile", "toy", "--jobs", "2"]
REPOSITORY = Path(__file__).parents[1]
CLOCK = ("seconds", "seconds_preparing", "peak_memory_mb", "finished", "commit")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def alone(tmp_path_factory) -> Iterator[None]:
    """One cluster at a time, also where several processes share out the tests; the former one has ended."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "ray.lock"):
        deadline = time.monotonic() + 60
        while subprocess.run(["pgrep", "-f", "ray/gcs/gcs_server"], capture_output=True, check=False).stdout:
            assert time.monotonic() < deadline, "a cluster of this machine does not end"
            time.sleep(0.5)
        yield


def without_clock(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in CLOCK}


def command(arguments: list[str]) -> subprocess.Popen:
    return started(["-m", "asg_book.cli", *arguments])


def started(arguments: list[str]) -> subprocess.Popen:
    """Python in a process of its own: Ray keeps threads and children."""
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGES}{os.pathsep}{Path(__file__).parent}"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def test_a_cluster_makes_the_records_of_this_machine(workplace, monkeypatch, tmp_path):
    out, _ = ended(command([*ARGUMENTS, "--on", "ray"]))
    assert out.startswith("0 of 3 runs have a current record; 3 to train\ntrials_large ")
    assert "3 of 3 runs have a current record; 0 to train" in CliRunner().invoke(app, ARGUMENTS).output
    made = [record for file in workplace.results.rglob("*.jsonl") for record in records.read(file)]
    assert len(made) == 3
    monkeypatch.setenv("ASG_RESULTS", str(tmp_path / "here"))
    monkeypatch.setenv("ASG_RUNS", str(tmp_path / "here"))
    for theirs in made:
        ours = run(make_config(theirs["config"]), device="cpu")
        assert without_clock(theirs) == without_clock(json.loads(json.dumps(ours)))


LOST = """
import json, sys
from pathlib import Path
import test_cluster
from asg import AsgError
from asg_book import cluster
cluster.RETRIES = 1
fields = json.loads(sys.argv[1])
for _, record in cluster.on_ray(test_cluster.dying, [(fields, sys.argv[2]), ({**fields, "seed": 1}, "")], workers=2):
    Path(sys.argv[2], f"{record['seed']}.json").write_text(json.dumps(record))
for _, error in cluster.on_ray(test_cluster.ending, [()], workers=1):
    Path(sys.argv[2], "error").write_text(f"{type(error).__name__} {error}")
for _, error in cluster.on_ray(test_cluster.refusing, [()], workers=1):
    Path(sys.argv[2], "refused").write_text(f"{type(error).__name__} {error}")
try:
    list(cluster.on_ray(test_cluster.refusing, [()], 1, cluster.Resources(gpus=1)))
except AsgError as error:
    Path(sys.argv[2], "lacking").write_text(str(error))
"""


def dying(fields: dict, folder: str) -> dict:
    """A run whose worker is killed after its second evaluation, the first time."""
    seen = []

    def on_evaluation(evaluation: dict) -> None:
        seen.append(evaluation["step"])
        marker = Path(folder, "killed")
        if folder and len(seen) == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    record = run(make_config(fields), on_evaluation=on_evaluation)
    return {**record, "seen": seen}


def ending() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refusing() -> None:
    raise AsgError("the lamp is broken: replace it.")


def test_a_killed_worker_is_a_retry_that_goes_on(workplace, monkeypatch, tmp_path):
    config = make_config(PROFILES["toy"], {"evaluations": 4})
    (script := tmp_path / "lost.py").write_text(LOST)
    ended(started([str(script), config.to_json(), str(tmp_path)]))
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "error").read_text().startswith("AsgError its worker was lost 2 times (")
    assert (tmp_path / "refused").read_text() == "AsgError the lamp is broken: replace it."
    assert (tmp_path / "lacking").read_text().startswith("No node has the 1 CPUs and 1 GPUs that a run asks for: give")
    monkeypatch.setenv("ASG_RESULTS", str(tmp_path / "alone"))
    monkeypatch.setenv("ASG_RUNS", str(tmp_path / "alone"))
    for seed in (0, 1):
        theirs = json.loads((tmp_path / f"{seed}.json").read_text())
        assert len(theirs.pop("seen")) == (3 if seed == 0 else 5)  # a killed run evaluates no step twice
        ours = run(config.model_copy(update={"seed": seed}), device="cpu")
        assert without_clock(theirs) == without_clock(json.loads(json.dumps(ours)))


def test_a_killed_driver_goes_on_with_the_same_command(workplace):
    arguments = ["reproduce", "--experiment", "lambda", "--profile", "toy", "--jobs", "2", "--on", "ray"]
    first = command(arguments)
    while not (before := {path: path.read_text().splitlines() for path in workplace.results.rglob("*.jsonl")}):
        assert first.poll() is None, first.communicate()
        time.sleep(0.2)
    first.kill()
    first.communicate()
    ended(command(arguments))
    assert "20 of 20 runs have a current record; 0 to train" in CliRunner().invoke(app, arguments).output
    finished = {path: path.read_text().splitlines() for path in workplace.results.rglob("*.jsonl")}
    assert all(set(lines) <= set(finished[path]) for path, lines in before.items())  # nothing is trained again


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AsgError, match=r"needs Ray: pip install 'asg-book\[ray\]'"):
        list(cluster.on_ray(ending, [()], 1))
    wrong = CliRunner().invoke(app, [*ARGUMENTS, "--on", "slurm"])
    assert str(wrong.exception) == "There is no engine 'slurm': choose from local, ray."


def test_a_node_with_other_code_says_so():
    with pytest.raises(AsgError, match="has another version of toy than the driver"):
        cluster.perform({**cluster.versions(), "toy": 99}, ending, ())


def test_a_killed_process_of_this_machine_is_a_sentence():
    with pytest.raises(AsgError, match="run the same command again, perhaps with fewer --jobs than 1"):
        list(in_workers(ending, [()], 1))


def test_data_that_a_node_lacks_are_fetched_once(workplace, monkeypatch):
    asked = []
    config = make_config(PROFILES["toy"], {"data": "pacs-cartoon"})

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess:
        asked.append(Path(command[1]).name)
        return subprocess.CompletedProcess(command, int(len(asked) > 1), "", "line\nno network")

    monkeypatch.setattr(cluster.subprocess, "run", fake)
    with pytest.raises(AsgError, match=r"pacs.py failed: no network"):
        cluster.obtain(config)
    assert asked == ["mini.py", "pacs.py"]
    cluster.obtain(make_config(PROFILES["toy"]))  # drawn, not read
    assert len(asked) == 2


def test_one_player_learns_what_this_process_learns_and_two_learn_together(workplace, monkeypatch):
    """Bit by bit; of two, the first update is made of both their gradients, and the card says how many there were."""
    monkeypatch.setenv("ASG_POLICIES", str(workplace.data / "policies"))
    for name, more in {"here": [], "one": ["--on", "ray"], "two": ["--on", "ray", "--set", "parallel=2"]}.items():
        to = ["--out", str(workplace.data / f"{name}.safetensors"), "--device", "cpu"]
        out, _ = ended(command(["policy", "train", "asg", "--profile", "toy", *to, *more]))
        assert [line.split(":")[0] for line in out.splitlines()][:3] == ["episode 0", "episode 1", "episode 2"]
    (local, card), (one, its), (two, theirs) = (
        load_policy(workplace.data / f"{name}.safetensors") for name in ("here", "one", "two")
    )
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in local.state_dict().items())
    assert card["curve"] == its["curve"]
    assert (its["meta"]["parallel"], theirs["meta"]["parallel"]) == (1, 2)
    assert not torch.equal(two.heads[0].weight, one.heads[0].weight)
    # the first episode of two begins as it does alone, and ends otherwise once an update has been averaged
    assert [point["episode"] for point in theirs["curve"]] == [0, 1, 2]


def test_without_ray_episodes_side_by_side_are_a_sentence(workplace):
    arguments = ["policy", "train", "asg", "--profile", "toy", "--set", "parallel=2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(workplace.data / "two.safetensors")])
    assert str(done.exception) == "2 episodes side by side are played on Ray: give --on ray."


STUBS = {
    "scontrol": "#!/bin/sh\necho 127.0.0.1\n",
    "srun": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n',
}


def job(script: str, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A job script, with stand-ins for Slurm's commands, in a folder that has the environment."""
    (folder / "bin").mkdir()
    for name, text in STUBS.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH={folder / 'bin'}:{Path(sys.executable).parent}:$PATH\n")
    return subprocess.run(
        ["bash", str(REPOSITORY / "examples" / "clusters" / script), *arguments], cwd=folder, text=True, check=False,
        capture_output=True, timeout=300, env={**os.environ, "PYTHONPATH": PACKAGES, **environment},
    )  # fmt: skip


def test_the_slurm_job_starts_ray_and_trains_what_is_missing(workplace, tmp_path):
    port = free_port()
    done = job(
        "slurm_ray.sh", tmp_path, *ARGUMENTS[1:], SLURM_JOB_NODELIST="n[1]", SLURM_JOB_NUM_NODES="1", RAY_PORT=port
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 to train" in done.stdout and len(list(workplace.results.rglob("*.jsonl"))) == 3


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def test_a_task_of_the_slurm_array_is_one_run(workplace, tmp_path):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "1"}
    done = job("slurm_array.sh", tmp_path, "guidance", "small", "toy", **task)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("guidance small (toy) seed 3: accuracy")


def test_a_task_that_is_asked_to_end_is_queued_again(tmp_path, monkeypatch):
    monkeypatch.setitem(STUBS, "srun", "#!/bin/sh\nexit 143\n")
    monkeypatch.setitem(STUBS, "scontrol", '#!/bin/sh\necho "scontrol $*"\n')
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "17"}
    done = job("slurm_array.sh", tmp_path, "guidance", "small", "toy", **task)
    assert (done.returncode, done.stdout) == (143, "scontrol requeue 17_3\n")


def test_the_job_of_kubernetes_is_whole():
    made = yaml.safe_load((REPOSITORY / "examples" / "clusters" / "kuberay.yaml").read_text())
    spec = made["spec"]["rayClusterSpec"]
    assert (made["kind"], spec["rayVersion"]) == ("RayJob", version("ray"))
    options = shlex.split(made["spec"]["entrypoint"])
    assert options[:2] == ["asg", "reproduce"] and CliRunner().invoke(app, [*options[1:], "--help"]).exit_code == 0
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] and container["resources"]["limits"] == container["resources"]["requests"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
