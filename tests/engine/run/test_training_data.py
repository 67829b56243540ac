"""The data that the trainer reads: rows of the prompts, made when a step needs them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from ida_tui.api import config_for_resume, data_has_changed
from ida_tui.cli.main import main
from ida_tui.config.conversation import prompt_context
from ida_tui.config.data.table import RowTable
from ida_tui.config.prompts import Prompt, PromptSet
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.run.build import training_dataset
from ida_tui.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def chat_format() -> ChatFormat:
    model = ModelConfig(path="embedded")
    return ChatFormat(load.load_tokenizer(model), model)


def test_only_the_prompts_of_a_step_are_made(
    chat_format: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("train.jsonl").write_text("".join(f'{{"prompt": "Is {n}?"}}\n' for n in range(5000)))
    made: list[int] = []
    original = RowTable.row
    monkeypatch.setattr(
        RowTable, "row", lambda table, row: (made.append(row), original(table, row))[1]
    )

    dataset = training_dataset(PromptSet(source="train.jsonl"), chat_format, with_columns=True)

    assert len(dataset) == 5000
    assert dataset[4999]["prompt_text"] == "Is 4999?"
    assert dataset[[0, 1]]["prompt_id"] == ["train:1", "train:2"]
    assert made == [4999, 0, 1]


def test_a_row_has_the_conversation_and_the_columns_that_are_needed(
    chat_format: ChatFormat,
) -> None:
    prompt = Prompt(id="a", text="Hi", system="Be brief.", columns={"answer": 4})
    prompts = PromptSet(prompts=[prompt])

    row = training_dataset(prompts, chat_format, with_columns=True)[0]

    assert row["prompt"] == chat_format.messages("Hi", prompt_context(prompt, None))
    assert json.loads(row["columns"]) == {"answer": 4}
    assert training_dataset(prompts, chat_format, with_columns=False)[0]["columns"] == "{}"


def test_a_run_on_a_data_file_rewards_by_its_columns_and_opens_without_it() -> None:
    file = Path("train.jsonl")
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "tag": "sum"} for n in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("rewards.py").write_text(
        "def accuracy(completions, answer, tag):\n    return [len(a) + n for n, a in enumerate(answer)]\n"
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
    file.write_text(
        file.read_text() + '{"question": "What is 9 + 9?", "answer": "18", "tag": "sum"}\n'
    )
    assert data_has_changed(directory, config_for_resume(directory, []))

    file.unlink()
    assert main(["report", str(directory.path)]) == 0
    assert main(["compare", str(directory.path), str(directory.path)]) in (0, 2)
    assert main(["runs"]) == 0
    assert main(["resume", str(directory.path)]) == 2
