"""Datasets of a Hugging Face hub, served by this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui.config.data.hub import find_copy
from ida_tui.config.prompts import PromptSet
from ida_tui.errors import UsageError
from tests.support.dataset_hub import COMMIT, dataset_hub

README = b"""---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train.jsonl
  - split: test
    path: main/test.jsonl
- config_name: other
  data_files: other/train.jsonl
---
"""
SCRIPT = b"import pathlib\npathlib.Path('trap').touch()\n"
ASK = """
import json, sys
from ida_tui.config.data.hub import find_copy
from ida_tui.errors import UsageError
answers = []
for arguments in json.loads(sys.argv[1]):
    try:
        copy = find_copy(*arguments, download=True)
        answers.append([copy.label, copy.revision])
    except UsageError as error:
        answers.append([error.title, error.hint])
print(json.dumps(answers))
"""


def rows(start: int) -> bytes:
    return b"".join(
        json.dumps({"question": f"What is {n} + 1?", "answer": n + 1}).encode() + b"\n"
        for n in range(start, start + 4)
    )


def ask(url: str, *arguments: list[str | None]) -> list[list[str]]:
    """Download in another process, because the address of the hub is read when a library is imported."""
    result = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(arguments)],
        env=os.environ
        | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(Path("hub").absolute())},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    answers: list[list[str]] = json.loads(result.stdout)
    return answers


def test_a_dataset_is_downloaded_once_and_then_read_without_network_and_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums = {"README.md": README, "main/train.jsonl": rows(0), "main/test.jsonl": rows(9)}
    hub = {"org/sums": sums | {"other/train.jsonl": rows(20)}, "org/script": {"script.py": SCRIPT}}
    with dataset_hub(hub) as url:
        several, split, missing, script, train, test = ask(
            url,
            ["org/sums", None, None, None],
            ["org/sums", "main", "dev", None],
            ["org/none", None, None, None],
            ["org/script", None, None, None],
            ["org/sums", "main", None, None],
            ["org/sums", "main", "test", None],
        )

    assert several[0] == 'the dataset "org/sums" has several subsets: main, other'
    assert several[1] == "choose one, such as prompts.subset=main"
    assert split[0] == 'the dataset "org/sums" has no split "dev": train, test'
    assert missing[0].startswith('there is no dataset "org/none"')
    assert "cannot be read" in script[0] or "its code is not run" in script[0]
    assert not Path("trap").exists()
    assert train == ["org/sums, main, train", COMMIT]
    assert test == ["org/sums, main, test", COMMIT]

    monkeypatch.setitem(sys.modules, "datasets", None)
    prompts = PromptSet(source="org/sums", subset="main", held_out_split="test")
    loaded = prompts.load(download=False)
    assert [prompt.text for prompt in prompts.train()] == [f"What is {n} + 1?" for n in range(4)]
    assert [prompt.columns for prompt in prompts.held_out()] == [
        {"answer": n + 1} for n in range(9, 13)
    ]
    assert [file.commit for file in loaded.files] == [COMMIT, COMMIT]
    # The commit that a run wrote down needs no network either.
    assert find_copy("org/sums", "main", None, COMMIT, download=False).revision == COMMIT


def test_a_dataset_that_is_not_here_is_not_downloaded_without_being_asked_for() -> None:
    with pytest.raises(
        UsageError, match='the dataset "org/sums" is not on this machine'
    ) as refused:
        find_copy("org/sums", None, None, None, download=False)
    assert "--check" in refused.value.hint


def test_a_hub_that_cannot_be_reached_names_the_network_and_what_works_without_it() -> None:
    [[title, hint]] = ask("http://hub.invalid", ["org/sums", None, None, None])

    assert title.startswith('could not reach the Hugging Face Hub for "org/sums"')
    assert "check the network connection" in hint
    assert "prompts=FILE.jsonl" in hint
