"""Sweeps on a Ray cluster of this machine: the table, a stop, the resources of a run, and wrong addresses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ida_tui.errors import ExitCode
from ida_tui.sweep import processes, ray_cluster, text
from ida_tui.sweep.ray_cluster import RayCluster, RayTask
from ida_tui.sweep.results import build_table
from ida_tui.sweep.status import SweepReader
from tests.support.patience import PATIENCE_S
from tests.support.stand_in_training import write_stand_in
from tests.support.synthetic_sweep import RunOutcome, create_sweep

pytest.importorskip("ray")
OUTCOMES = [RunOutcome(0.60), RunOutcome(0.75)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster with two CPUs on this machine, whose runs are stand-ins."""
    # The paths of its sockets are limited to 107 bytes, which pytest's own folders would exceed.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield from _cluster(Path(folder))


def _cluster(folder: Path) -> Iterator[str]:
    ready = folder / "ray" / "ray_current_cluster"
    head = subprocess.Popen(
        [
            sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head",
            "--num-cpus", "2", "--port", "0", "--include-dashboard", "false", "--disable-usage-stats",
            "--block",
        ],
        env=os.environ | {"PYTHONPATH": write_stand_in(folder, OUTCOMES), "RAY_TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while not (ready.exists() and ready.read_text().strip()) and time.monotonic() < deadline:
        assert head.poll() is None
        time.sleep(0.05)
    try:
        yield ready.read_text().strip()
    finally:
        head.terminate()
        head.wait()


def test_a_sweep_on_a_cluster_ends_with_the_table_of_one_without_it(
    address: str, ida_tui_here: Any
) -> None:
    arguments = ["training.learning_rate=1e-3,2e-3", "name=cluster"]
    here = create_sweep({"training.learning_rate": ("1e-3", "2e-3")}, OUTCOMES)

    there = ida_tui_here("sweep", "quickstart", *arguments, "--json", "--ray", address)

    assert there.code == ExitCode.DONE, there.err
    assert "Ray cluster: 1 node, 2 CPUs, 0 GPUs" in there.err
    assert "● 2/2 learning_rate=2e-3 starting" in there.err
    expected = text.sweep_as_json(build_table(here, SweepReader(here).read_all()))
    tables = [json.loads(there.out), json.loads(json.dumps(expected))]
    for table in tables:
        for key in ("sweep", "path", "experiment", "fixed"):
            del table[key]
        for setting in table["settings"]:
            for run in setting["each"]:
                del run["run"]
    assert tables[0] == tables[1]
    assert tables[0]["best"]["setting"] == {"training.learning_rate": "2e-3"}


def test_a_stop_reaches_the_process_of_a_run_on_its_node(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [])
    monkeypatch.setattr(ray_cluster, "process_arguments", lambda *_: ["--wait"])
    with ray_cluster.connect(address) as cluster:
        task = cluster.start(sweep, 0, None, None, {})
        assert isinstance(task, RayTask)
        wait_until(lambda: "waiting" in sweep.log_file(0).read_text(), sweep.log_file(0))
        assert processes.is_locked(sweep, 0)
        assert not task.has_ended(None)
        task.stop(None)
        wait_until(lambda: task.has_ended(None), sweep.log_file(0))
        assert task.returncode == ExitCode.FAILED
    assert "stopped" in sweep.log_file(0).read_text()


def test_the_reason_why_a_node_cannot_start_a_run_is_shown_in_its_place(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = create_sweep({"seed": ("0", "1")}, [])
    monkeypatch.setattr(Path, "cwd", lambda: Path("/not/on/the/node"))
    with ray_cluster.connect(address) as cluster:
        task = cluster.start(sweep, 0, None, None, {})
        wait_until(lambda: task.has_ended(None), sweep.lock_file(0))
    processes.record_start_failure(sweep, 0, task.returncode or 0)
    status = SweepReader(sweep).read_one(0)

    assert status.stage == "refused"
    assert "its node could not start it: [Errno 2]" in status.problem


def wait_until(condition: Any, file: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (file.exists() and condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_gets_its_share_of_a_node_and_a_gpu_or_memory() -> None:
    sweep = replace(create_sweep({"seed": ("0", "1")}, []), jobs=None)
    cpus = RayCluster(({"CPU": 64.0, "memory": 1e9}, {"CPU": 32.0, "memory": 90e9}))
    gpus = RayCluster(({"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}))
    on_gpus = replace(sweep, uses_gpus=True)

    assert cpus.slots(None, uses_gpus=True) == 96
    assert cpus.options(sweep, 0) == {"num_cpus": 1, "memory": int(1e9)}
    assert cpus.options(replace(sweep, jobs=4), 0)["num_cpus"] == 16
    assert gpus.slots(None, uses_gpus=True) == 16
    assert gpus.options(on_gpus, 0) == {"num_cpus": 8, "num_gpus": 1}
    assert gpus.slots(3, uses_gpus=True) == 3
    assert "16 GPUs, one for each run" in gpus.summary(uses_gpus=True)


@pytest.mark.parametrize(
    ("address", "code", "title"),
    [
        ("127.0.0.1:1", ExitCode.FAILED, 'could not connect to a Ray cluster at "127.0.0.1:1"'),
        ("auto", ExitCode.FAILED, 'could not connect to a Ray cluster at "auto"'),
        ("ray://head:1", ExitCode.USAGE, '"ray://head:1" is not the address of a Ray cluster'),
        ("", ExitCode.USAGE, "the value of --ray is empty"),
    ],
)
def test_an_address_without_a_cluster_gets_one_error_before_anything_is_written(
    address: str, code: ExitCode, title: str, tmp_path: Path, ida_tui_here: Any
) -> None:
    stale = tmp_path / "ray" / "ray_current_cluster"  # left behind by a cluster that was killed
    stale.parent.mkdir()
    stale.write_text("127.0.0.1:1")

    result = ida_tui_here(
        "sweep", "quickstart", "seed=0,1", "--ray", address, RAY_TMPDIR=str(tmp_path)
    )

    assert result.code == code
    assert title in result.err
    assert "Traceback" not in result.err
    assert not Path("outputs").exists()


def test_the_error_without_ray_explains_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)

    result = ida_tui_here("sweep", "quickstart", "seed=0,1", "--ray", "auto")

    assert result.code == ExitCode.USAGE
    assert "uv sync --extra ray" in result.err
