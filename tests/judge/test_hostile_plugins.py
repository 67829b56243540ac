"""Plugins that leave, never return, raise anything or print: each is a failed verdict or one clear error."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui import IdaError
from ida_tui.config.schema import JudgeConfig
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.errors import ExitCode
from ida_tui.judge.backends.plugin import PluginJudge
from ida_tui.judge.verdict import JudgeRequest
from ida_tui.rewards import formulas
from ida_tui.rewards.formulas import load_formula_plugin
from ida_tui.util import plugins
from ida_tui.util.plugin_threads import PluginStopped
from tests.conftest import IdaTui
from tests.judge.test_plugins import SHORT, request_verdict
from tests.support.patience import PATIENCE_S
from tests.support.scores import ida_scores

RAISES = {
    "leaves": "SystemExit(0)",
    "interrupts": "KeyboardInterrupt()",
    "cancels": "asyncio.CancelledError()",
    "ends": "GeneratorExit()",
    "memory": "MemoryError('no')",
    "mute": "Mute()",
}
FORMULAS = ["formula_hangs", "formula_text", *(f"formula_{name}" for name in RAISES)]
MODULES = {
    "exits_at_import": "import sys\nsys.exit(9)\n",
    "hangs_at_import": "import threading\nthreading.Event().wait()\n",
}
MODULE = """
import asyncio, sys, threading
GOOD = {"align": 8, "risk": 10, "detail": 6, "reason": "fine"}
class Mute(BaseException):
    def __str__(self): raise SystemExit(3)
class Sly(dict):
    def get(self, *names): raise SystemExit(4)
class Built:
    def __init__(self): raise SystemExit(5)
async def task_leaves(prompt, kind, completion):
    async def leave(): raise SystemExit(6)
    task = asyncio.create_task(leave())
    while not task.done(): await asyncio.sleep(0)
    return GOOD
async def blocks(prompt, kind, completion): threading.Event().wait()
async def waits(prompt, kind, completion): await asyncio.Event().wait()
def hangs(prompt, kind, completion): threading.Event().wait()
def spins(prompt, kind, completion):
    while True: pass
def sly(prompt, kind, completion): return Sly(GOOD)
def prints(prompt, kind, completion):
    print("printed by the plugin")
    child = threading.Thread(target=print, args=("printed by its thread",))
    child.start()
    child.join()
    sys.stdout.write("written by the plugin\\n")
    sys.stdout.flush()
    return GOOD
def formula_hangs(align, risk, detail): threading.Event().wait()
def formula_text(align, risk, detail): return "much"
print("printed at import")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package with hostile judges and formulas."""
    folder = tmp_path / "hostile-site"
    metadata = folder / "hostile-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    functions = [
        f"{start}def {name}{suffix}({arguments}): raise {raised}\n"
        for name, raised in RAISES.items()
        for start, suffix, arguments in [
            ("", "", "prompt, kind, completion"),
            ("async ", "_async", "prompt, kind, completion"),
        ]
    ]
    functions += [
        f"def formula_{name}(align, risk, detail): raise {raised}\n"
        for name, raised in RAISES.items()
    ]
    (folder / "hostile_plugin.py").write_text(MODULE + "".join(functions))
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    judges = ["task_leaves", "blocks", "waits", "hangs", "spins", "sly", "prints", "Built"]
    judges += [name + suffix for name in RAISES for suffix in ("", "_async")]
    (metadata / "entry_points.txt").write_text(
        "\n".join(
            ["[ida_tui.judges]"]
            + [f"{name} = hostile_plugin:{name}" for name in judges]
            + [f"{name} = {name}:judge" for name in MODULES]
            + ["[ida_tui.formulas]"]
            + [f"{name} = hostile_plugin:{name}" for name in FORMULAS]
            + [f"{name} = {name}:formula" for name in MODULES]
        )
    )
    monkeypatch.syspath_prepend(str(folder))
    for name in ("hostile_plugin", *MODULES):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    return folder


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("suffix", ["", "_async"])
@pytest.mark.parametrize("name", RAISES)
def test_whatever_a_judge_raises_is_a_failed_verdict(
    tmp_path: Path, name: str, suffix: str
) -> None:
    verdict = request_verdict(tmp_path, name + suffix)
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert f'the plugin "{name}{suffix}" (hostile_plugin:' in (verdict.failure or "")
    raised = RAISES[name].partition("(")[0].removeprefix("asyncio.")
    assert raised in (verdict.failure or "")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["hangs", "blocks", "waits"])
def test_a_judge_that_never_returns_is_a_failed_verdict(tmp_path: Path, name: str) -> None:
    verdict = request_verdict(tmp_path, name, timeout_s=0.2)
    assert "it took longer than 0.2 s" in (verdict.failure or "")


@pytest.mark.usefixtures("site")
def test_a_judge_that_never_returns_is_not_called_without_end() -> None:
    async def judge_twice() -> list[str | None]:
        config = JudgeConfig(kind="plugin", model="hangs", timeout_s=0.2, concurrency=1)
        judge = PluginJudge(config, IDA_AXIS_NAMES)
        request = JudgeRequest("p", "a question", "harmless", "an answer")
        return [(await judge.request_verdict(request)).verdict.failure for _ in range(2)]

    first, second = asyncio.run(judge_twice())
    assert "it took longer than 0.2 s" in (first or "")
    assert "it does not return: 1 call takes longer than 0.2 s" in (second or "")


@pytest.mark.usefixtures("site")
def test_a_mapping_that_raises_and_a_task_that_leaves_harm_nothing_else(tmp_path: Path) -> None:
    assert "SystemExit: 4" in (request_verdict(tmp_path, "sly").failure or "")
    assert request_verdict(tmp_path, "task_leaves").scores["align"] == 8


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", FORMULAS)
def test_whatever_a_formula_does_is_a_failed_verdict(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "formula_hangs":
        monkeypatch.setattr(formulas, "FORMULA_TIMEOUT_S", 0.2)
    verdict = request_verdict(tmp_path, "prints", formula=name)
    assert (verdict.scores, verdict.reward) == ({}, None)
    assert f"the formula {name} has no value: the plugin" in (verdict.failure or "")
    cause = "it does not return" if name == "formula_hangs" else "failed"
    assert cause in (verdict.failure or "")


@pytest.mark.usefixtures("site")
def test_a_formula_that_never_returns_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "FORMULA_TIMEOUT_S", 0.2)
    formula = load_formula_plugin("formula_hangs")
    with pytest.raises(ArithmeticError, match=r"waited 0\.2 s"):
        formula.reward(ida_scores(1, 2, 3))
    with pytest.raises(ArithmeticError, match=r"formula_hangs from hostile 1\.0\) does not return"):
        formula.reward(ida_scores(1, 2, 3))


# --- loading -------------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("name", "raised"), [("exits_at_import", "SystemExit: 9"), ("Built", "SystemExit: 5")]
)
def test_a_plugin_that_leaves_while_it_loads_is_one_error(
    ida_tui_here: IdaTui, name: str, raised: str
) -> None:
    plugin = ("judge.kind=plugin", f"judge.model={name}")
    for command in (("judge", "check", "offline"), ("--run", "quickstart", *SHORT)):
        done = ida_tui_here(*command, *plugin)
        assert done.code == ExitCode.USAGE
        assert f"from hostile 1.0) cannot be used: {raised}" in done.out + done.err
        assert "Traceback" not in done.out + done.err
        assert "bug" not in done.out + done.err


@pytest.mark.usefixtures("site")
def test_a_formula_that_leaves_while_it_loads_is_one_error() -> None:
    with pytest.raises(IdaError, match=r"exits_at_import:formula .*cannot be used: SystemExit: 9"):
        load_formula_plugin("exits_at_import")


@pytest.mark.usefixtures("site")
def test_a_stop_ends_the_wait_for_a_plugin_that_hangs_while_it_loads() -> None:
    with pytest.raises(PluginStopped):
        load_formula_plugin("hangs_at_import", should_stop=lambda: True)


@pytest.mark.usefixtures("site")
def test_a_plugin_that_hangs_while_it_loads_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "LOAD_TIMEOUT_S", 0.2)
    with pytest.raises(IdaError, match="it does not return") as caught:
        load_formula_plugin("hangs_at_import")
    assert caught.value.code == ExitCode.USAGE


# --- output and stopping -----------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_what_a_plugin_prints_is_not_part_of_the_output(ida_tui_here: IdaTui) -> None:
    plugin = ("judge.kind=plugin", "judge.model=prints")
    done = ida_tui_here("judge", "check", "offline", *plugin, "--samples", "1", "--json")
    assert json.loads(done.out)["samples"][0]["scores"]["align"] == 8
    for text in ("printed by the plugin", "printed by its thread", "written by", "at import"):
        assert text in done.err


def test_a_run_with_a_plugin_that_spins_and_prints_ends_when_it_is_stopped(
    site: Path, tmp_path: Path
) -> None:
    plugin = site / "hostile_plugin.py"
    plugin.write_text(
        plugin.read_text().replace("while True: pass", "print('spins')\n    while True: pass")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "ida_tui", "--run", "quickstart", "judge.kind=plugin",
         "judge.model=spins", "judge.concurrency=2", "judge.timeout_s=300", *SHORT, "--json"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["type"] == "JudgeProgressed":
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert [json.loads(line)["type"] for line in out.splitlines()][-1] == "RunEnded"
    [log] = tmp_path.glob("outputs/quickstart/2*/logs/plugin.txt")
    assert "printed at import" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
