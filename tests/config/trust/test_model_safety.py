"""Model folders of strangers: refused before a library opens a pipe, a device or an endless template."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ida_tui.config import embedded
from ida_tui.config.model_files import find_damaged_weights, model_problem
from ida_tui.config.schema import ModelConfig


@pytest.fixture
def folder() -> Path:
    path = Path("model")
    shutil.copytree(embedded.model_folder(), path)
    return path


def problem_of(folder: Path) -> str:
    found = model_problem(ModelConfig(path=str(folder)))
    return "" if found is None else found[0]


def test_a_regular_model_folder_is_accepted(folder: Path) -> None:
    assert problem_of(folder) == ""


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_a_model_file_must_be_a_regular_file_of_the_folder(
    name: str, kind: str, folder: Path
) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        Path("outside").write_text("{}")
        (folder / name).symlink_to(Path("outside").absolute())

    assert "not a regular file" in problem_of(folder)


def test_a_text_file_of_absurd_size_is_refused(folder: Path) -> None:
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(3 << 30)

    assert "tokenizer.json in the model folder is larger than 200 MB" in problem_of(folder)


def test_links_inside_the_hub_cache_are_accepted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(Path("cache").absolute()))
    repository = Path("cache/models--org--name")
    snapshot = repository / "snapshots/abc"
    snapshot.mkdir(parents=True)
    folder.rename(repository / "blobs")
    for file in (repository / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    model = ModelConfig(path="org/name")
    assert model_problem(model) is None

    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("/etc/hostname")
    problem = model_problem(model)
    assert problem is not None
    assert "config.json" in problem[0]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for i in range(99999) %}{{ 'a' * 500 }}{% endfor %}", "expands one short message"),
        ("{{ 'a' * 40000000 }}", "expands one short message"),
        ("{{ 'a' * 4000000000 }}", "expands one short message"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not end",
        ),
        (
            "{% if messages[0].content not in ('Hello', 'Be brief.') %}{{ 'a' * 40000000 }}{% endif %}",
            "expands one short message",
        ),
        ("x" * 1_000_001, "is longer than 1,000,000 characters"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", ""),
        ("{{ raise_exception('no system message') }}", ""),
    ],
)
def test_a_chat_template_that_has_no_end_is_refused(
    template: str, problem: str, folder: Path
) -> None:
    (folder / "chat_template.jinja").write_text(template)

    found = problem_of(folder)

    assert problem in found
    assert bool(problem) == bool(found)


def test_a_template_in_the_tokenizer_settings_is_checked(folder: Path) -> None:
    templates = [{"name": "default", "template": "{{ 'a' * 40000000 }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))

    assert "expands one short message" in problem_of(folder)


@pytest.mark.parametrize("offsets", [[-5, 10], [0, 8], [16, 8], [0, "16"], [0], None])
def test_weights_whose_tensors_cannot_be_where_the_header_says_are_damaged(
    folder: Path, offsets: object
) -> None:
    def write(first: object) -> None:
        tensors = {"a": first, "b": [16, 32]}
        header = json.dumps({name: {"data_offsets": place} for name, place in tensors.items()})
        length = len(header).to_bytes(8, "little")
        (folder / "model.safetensors").write_bytes(length + header.encode() + bytes(32))

    write([0, 16])
    assert find_damaged_weights(folder) == ""

    write(offsets)
    assert "model.safetensors is damaged" in find_damaged_weights(folder)
