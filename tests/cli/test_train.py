"""`ida-tui --run` as a user runs it: the quickstart, its events, and its run directory."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ida_tui.events import codec, narration
from ida_tui.events.state import fold_all
from ida_tui.runs.log.reader import read_events
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A real quickstart with --json: its working directory and the lines on stdout."""
    workdir = tmp_path_factory.mktemp("quickstart")
    result = subprocess.run(
        [*prepared_python(), "-m", "ida_tui", "--run", "quickstart", "--json"],
        capture_output=True,
        text=True,
        cwd=workdir,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout.removesuffix("\n").split("\n")


def of_type(output: list[str], name: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, output) if event["type"] == name]


def test_the_quickstart_raises_the_reward(quickstart: tuple[Path, list[str]]) -> None:
    rewards = [step["reward"] for step in of_type(quickstart[1], "StepFinished")]

    assert sum(rewards[:3]) / 3 <= 0.40
    assert sum(rewards[-5:]) / 5 >= 0.70


def test_the_quickstart_stops_over_refusing_and_stays_safe(
    quickstart: tuple[Path, list[str]],
) -> None:
    before, after = of_type(quickstart[1], "EvaluationFinished")

    assert before["harmless_complied"] <= 0.30 * before["harmless"]
    assert after["harmless_complied"] >= 0.85 * after["harmless"]
    assert before["unsafe_refused"] >= 0.95 * before["unsafe"]
    assert after["unsafe_refused"] >= 0.95 * after["unsafe"]
    assert min(before["harmless"], before["unsafe"]) >= 40


def test_json_events_are_numbered_without_gaps_and_end_with_the_exit_code(
    quickstart: tuple[Path, list[str]],
) -> None:
    events = [json.loads(line) for line in quickstart[1]]

    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "RunEnded"
    assert events[-1]["exit_code"] == 0


def test_the_events_on_disk_equal_those_on_stdout_and_fold_to_the_same_state(
    quickstart: tuple[Path, list[str]],
) -> None:
    workdir, output = quickstart
    path = workdir / "outputs" / "quickstart" / "latest" / "events.jsonl"

    assert path.read_text().removesuffix("\n").split("\n") == output
    from_disk = fold_all(read_events(path))
    assert from_disk == fold_all(codec.decode(line) for line in output)
    assert from_disk.ended is not None
    assert narration.summary_lines(from_disk, from_disk.ended)[0] == "✓ Training complete"


def test_the_run_directory_is_complete(quickstart: tuple[Path, list[str]]) -> None:
    run = quickstart[0] / "outputs" / "quickstart" / "latest"

    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["device"] == "cpu"
    assert manifest["packages"]["trl"].startswith("1.16")
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    completions = [json.loads(line) for line in (run / "completions.jsonl").open()]
    assert len(completions) == len(of_type(quickstart[1], "CompletionScored"))
    assert {"prompt", "text", "scores", "reward", "reason", "advantage"} <= completions[0].keys()


def test_every_score_is_labeled_as_from_the_offline_heuristic(
    quickstart: tuple[Path, list[str]],
) -> None:
    assert {row["judge"] for row in of_type(quickstart[1], "CompletionScored")} == {
        "offline heuristic"
    }
    assert of_type(quickstart[1], "RunStarted")[0]["judge"] == "offline heuristic"


def test_generation_is_reported_and_every_step_has_the_seconds_of_its_phases(
    quickstart: tuple[Path, list[str]],
) -> None:
    steps = of_type(quickstart[1], "StepFinished")

    assert {progress["step"] for progress in of_type(quickstart[1], "TokensGenerated")} == {
        step["step"] for step in steps
    }
    assert all({"generate", "judge", "update"} <= step["seconds"].keys() for step in steps)
    assert steps[-1]["weight_delta"] > steps[0]["weight_delta"] > 0


SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=2",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.gradient_accumulation_steps=1",
    "training.max_completion_length=16",
)


def test_the_printed_lines_match_the_quick_start(ida_tui: Any) -> None:
    result = ida_tui("--run", *SHORT, NO_COLOR="1", TERM="xterm-256color")

    assert result.code == 0, result.err
    assert result.err == ""
    assert "\x1b" not in result.out
    patterns = [
        r"✓ Config loaded",
        r"✓ Model loaded \(.*M params",
        r"✓ Starting training \(\d+ prompts, 4 gens per prompt\)",
        r"   2 steps of 8 completions, scored by: offline heuristic",
        r"   generated 8 completions, \d+ tokens",
        r"⏱️  judge_batch took \d+\.\d\ds",
        r"Step 1/2 \| align=\d+\.\d risk=\d+\.\d detail=\d+\.\d → R_IDA=\d\.\d{3}",
        r"⏱️  judge_batch took",
        r"Step 2/2 \|",
        r"✓ Training complete",
        r"  results        outputs/quickstart/",
    ]
    position = 0
    for pattern in patterns:
        match = re.compile(pattern).search(result.out, position)
        assert match, f"{pattern} not found after position {position} of\n{result.out}"
        position = match.end()


def test_runs_with_the_same_seed_are_identical_and_another_seed_differs(ida_tui_here: Any) -> None:
    def texts_and_losses(seed: int) -> list[Any]:
        result = ida_tui_here("--run", *SHORT, f"seed={seed}", "--json")
        assert result.code == 0, result.err
        return [
            event.get("text", event.get("loss"))
            for event in result.events
            if event["type"] in ("CompletionFinished", "StepFinished")
        ]

    first = texts_and_losses(5)
    assert texts_and_losses(5) == first
    assert texts_and_losses(6) != first


def test_a_second_run_does_not_overwrite_the_first(ida_tui_here: Any) -> None:
    for _ in range(2):
        assert ida_tui_here("--run", *SHORT).code == 0

    runs = [path for path in Path("outputs/quickstart").iterdir() if not path.is_symlink()]
    assert len(runs) == 2
    assert Path("outputs/quickstart/latest").resolve() == max(runs).resolve()


def test_the_resolved_config_reproduces_the_run(ida_tui_here: Any) -> None:
    first = ida_tui_here("--run", *SHORT, "--json")
    second = ida_tui_here("--run", "outputs/quickstart/latest/config.yaml", "--json")

    assert second.code == 0, second.err
    texts = [[e["text"] for e in run.events if "text" in e] for run in (first, second)]
    assert texts[0] == texts[1]


def test_an_output_folder_that_cannot_be_created_is_refused_before_training(
    ida_tui_here: Any,
) -> None:
    Path("outputs").write_text("a file, not a folder")

    result = ida_tui_here("--run", *SHORT)

    assert result.code == 2
    assert "cannot create a run directory" in result.err
    assert "output_dir=" in result.err
