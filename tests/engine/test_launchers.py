"""The launchers of docs/distributed.md, as far as one machine can run them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.support.documented import commands_on_page
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

CLUSTERS = REPOSITORY / "examples" / "clusters"
SBATCH = CLUSTERS / "ida-tui.sbatch"
SKYPILOT = CLUSTERS / "skypilot.yaml"
RUN = (
    "quickstart", "training.max_steps=1", "evaluation.enabled=false",
    "training.max_completion_length=8",
)  # fmt: skip
SRUN = """
# Two tasks, each as if it ran on a node of its own, in the folders FOLDERS.
number=0
for folder in $FOLDERS; do
  (cd "$folder"; SLURM_PROCID=$number SLURM_NODEID=$number SLURM_STEP_NUM_TASKS=2 exec "$@") &
  number=$((number + 1))
done
wait -n; first=$?
wait -n; second=$?
exit $((first > second ? first : second))
"""
TORCHRUN = """
# Without restarts, which would repeat what is refused.
arguments=()
while [ "$1" != -m ]; do arguments+=("$1"); shift; done
exec {prepared} -m torch.distributed.run "${{arguments[@]}}" --max_restarts 0 --no-python {prepared} "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands, first on the path: a Slurm of two nodes on this machine, and torchrun."""
    commands = tmp_path / "commands"
    commands.mkdir()
    prepared = shlex.join(prepared_python())
    for name, body in {
        "srun": SRUN,
        "scontrol": "echo 127.0.0.1; echo node2",
        "torchrun": TORCHRUN.format(prepared=prepared),
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = str(free.getsockname()[1] % 10_000)
    for name, value in {
        "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2", "SLURM_GPUS_ON_NODE": "1", "FOLDERS": ". .", "OMP_NUM_THREADS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return commands


def run_batch_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SBATCH), *arguments],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("cluster")
def test_the_batch_script_trains_on_two_nodes_that_meet_at_the_first() -> None:
    done = run_batch_script("run", *RUN, "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [started] = [event for event in events if event["type"] == "RunStarted"]
    assert started["processes"] == 2
    assert (events[-1]["type"], events[-1]["status"]) == ("RunEnded", "done")


@pytest.mark.usefixtures("cluster")
def test_nodes_without_a_shared_run_directory_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("other").mkdir()
    monkeypatch.setenv("FOLDERS", ". other")
    refused = run_batch_script("run", *RUN)
    assert refused.returncode != 0
    assert "outputs of rank 0 is not seen by 1 of the other machines" in refused.stderr
    assert "set output_dir=PATH to a folder there" in refused.stderr
    assert not Path("outputs").exists()
    assert not any(Path("other").iterdir())


def test_a_restart_of_torchrun_continues_its_run() -> None:
    """The process is killed after its first step; torchrun starts it once more."""
    arguments = ["run", *RUN, "training.max_steps=3", "training.save_steps=1", "--json"]
    with torchrun("--standalone", "--max_restarts", "1", *arguments) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            event = json.loads(line)
            if event["type"] == "CheckpointSaved" and event["step"] == 1:
                [worker] = workers(Path.cwd())
                worker.send_signal(signal.SIGKILL)
                break
        events = [json.loads(line) for line in launcher.stdout if line.startswith("{")]
        assert launcher.wait() == 0, Path("stderr.txt").read_text()
    [resumed] = [event for event in events if event["type"] == "RunResumed"]
    assert resumed["from_step"] >= 1
    assert (events[-1]["status"], events[-1]["steps_done"]) == ("done", 3)
    assert len(list(Path("outputs/quickstart").glob("2*"))) == 1


def accelerate(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs the page's command of `accelerate launch`, or with other options, in prepared processes."""
    [on_page] = [
        command.text for command in commands_on_page("docs/distributed.md")
        if command.complete and command.text.startswith("accelerate launch")
    ]  # fmt: skip
    words = shlex.split(on_page)
    module = words.index("-m")
    return subprocess.run(
        [*prepared_python(), "-m", "accelerate.commands.launch", *(options or words[2:module]),
         "--no_python", *prepared_python(), *words[module:], *RUN[1:], "--json"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=os.environ | {"HF_HOME": str(Path.cwd())},
    )  # fmt: skip


def test_accelerate_starts_two_processes() -> None:
    done = accelerate()
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [event["processes"] for event in events if event["type"] == "RunStarted"] == [2]


def test_accelerate_says_that_it_starts_one_process_where_there_are_no_gpus() -> None:
    done = accelerate("--num_processes", "2")
    assert done.returncode == 0, done.stderr
    assert "! accelerate launch has started one process (WORLD_SIZE is not set)" in done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [event["processes"] for event in events if event["type"] == "RunStarted"] == [1]


def workers(folder: Path) -> Iterator[psutil.Process]:
    """The processes of a run in a folder."""
    for process in psutil.process_iter():
        try:
            is_worker = "RANK" in process.environ() and process.cwd() == str(folder)
        except psutil.Error:
            continue
        if is_worker:
            yield process


@contextmanager
def torchrun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs torchrun in the background, in the working directory."""
    split = arguments.index("run")
    command = [
        *prepared_python(), "-m", "torch.distributed.run", *arguments[:split], "--no-python",
        *prepared_python(), "-m", "ida_tui", *arguments[split:],
    ]  # fmt: skip
    with (
        Path("stderr.txt").open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as launcher,
    ):
        try:
            yield launcher
        finally:
            launcher.terminate()


def torchrun_options(command: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """The options and the arguments that a shell gives torchrun, called under its name or by uv."""
    stub = folder / "torchrun"
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    for name in ("srun", "uv"):
        shutil.copy(stub, folder / name)
        (folder / name).write_text(
            '#!/bin/bash\nwhile [ "$1" != torchrun ]; do shift; done\nexec "$@"\n'
        )
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60,
        env={**environment, "PATH": path},
    )  # fmt: skip
    words = done.stdout.splitlines()
    end = words.index("-m")
    return dict(zip(words[:end:2], words[1:end:2], strict=True)) | {"arguments": words[end:]}


def test_all_ways_to_several_nodes_give_torchrun_the_same_options(tmp_path: Path) -> None:
    """The command of the page, the batch script and the SkyPilot task."""
    [on_page] = [
        command.text for command in commands_on_page("docs/distributed.md")
        if command.text.startswith("torchrun --nnodes")
    ]  # fmt: skip
    page = torchrun_options(on_page, {}, tmp_path)
    task = yaml.safe_load(SKYPILOT.read_text())
    sky = torchrun_options(
        task["run"],
        {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
         "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "sky-1"},
        tmp_path,
    )  # fmt: skip
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho node1\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = torchrun_options(
        f"{SBATCH.read_text()}".replace('"$@"', "run quickstart"),
        {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "42",
         "SLURM_GPUS_ON_NODE": "8"},
        tmp_path,
    )  # fmt: skip
    assert page.keys() == sky.keys() == slurm.keys()
    for name in ("--nnodes", "--nproc_per_node", "--rdzv_backend", "--max_restarts"):
        assert page[name] == sky[name] == slurm[name]
    assert (sky["--rdzv_endpoint"], slurm["--rdzv_endpoint"]) == ("10.0.0.1:29500", "node1:20042")
    assert page["arguments"] == slurm["arguments"] == sky["arguments"][:-1]
    assert task["num_nodes"] == 2
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SBATCH.read_text(), re.MULTILINE))
    assert directives["nodes"] == "2"
    assert directives["ntasks-per-node"] == "1", "one torchrun on each node"
