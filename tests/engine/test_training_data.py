"""The data that the trainer reads: rows of the prompts, made when a step needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import yaml

from ida_tui.api import config_for_resume, data_has_changed
from ida_tui.cli.main import main
from ida_tui.config.prompts import Prompt
from ida_tui.config.resolve import resolve
from ida_tui.engine.run.build import training_dataset, training_row
from ida_tui.runs.directory import RunDirectory


class CountedPrompts(Sequence[Prompt]):
    """A hundred thousand prompts that count how many were made."""

    def __init__(self) -> None:
        self.made = 0

    def __len__(self) -> int:
        return 100_000

    @overload
    def __getitem__(self, position: int) -> Prompt: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[Prompt]: ...

    def __getitem__(self, position: int | slice) -> Prompt | Sequence[Prompt]:
        assert isinstance(position, int)
        self.made += 1
        return Prompt(id=f"p{position}", text=f"What is {position}?")

    def __iter__(self) -> Iterator[Prompt]:
        raise AssertionError("all prompts are made at once")


def test_only_the_prompts_of_a_step_are_made() -> None:
    prompts = CountedPrompts()

    dataset = training_dataset(prompts, with_columns=False)

    assert len(dataset) == 100_000
    assert dataset[99_999] == training_row(prompts[99_999], with_columns=False)
    assert dataset[[0, 1]]["prompt_id"] == ["p0", "p1"]
    assert prompts.made == 4


def test_the_rows_are_those_of_the_profile() -> None:
    train = resolve("quickstart").config.prompts.train()

    assert list(training_dataset(train, with_columns=True)) == [
        training_row(prompt, with_columns=True) for prompt in train
    ]


def test_a_run_on_a_data_file_rewards_by_its_columns_and_opens_without_it() -> None:
    file = Path("train.jsonl")
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "tag": "sum"} for n in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("rewards.py").write_text(
        "def accuracy(completions, answer, tag):\n    return [float(len(a)) for a in answer]\n"
    )
    command = ["--run", "quickstart", "prompts=train.jsonl", "prompts.held_out_fraction=0.2",
               "rubric=rewards.py"]  # fmt: skip
    small = ["training.max_steps=1", "training.num_generations=4", "evaluation.samples=1",
             "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=1",
             "training.max_completion_length=16"]  # fmt: skip

    assert main([*command, *small]) == 0

    # A column that did not arrive would be a failed reward, and pause the run.
    directory = RunDirectory(Path("outputs/quickstart/latest").resolve())
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    written = yaml.safe_load(directory.config.read_text())["prompts"]
    assert (written["source"], written["digest"]) == (str(file.absolute()), f"sha256:{sha256}")
    assert "What is" not in directory.config.read_text()
    (data,) = json.loads(directory.manifest.read_text())["data"]
    assert (data["name"], data["sha256"], data["rows"]) == (str(file.absolute()), sha256, 9)

    assert not data_has_changed(directory, config_for_resume(directory, []))
    file.write_text(file.read_text() + '{"question": "What is 9 + 9?"}\n')
    assert data_has_changed(directory, config_for_resume(directory, []))

    file.unlink()
    assert main(["report", str(directory.path)]) == 0
    assert main(["compare", str(directory.path), str(directory.path)]) in (0, 2)
    assert main(["runs"]) == 0
    assert main(["resume", str(directory.path)]) == 2
