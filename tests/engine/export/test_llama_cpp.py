"""A GGUF export in llama.cpp: the same prompts, and the tuned model's answers.

They need a folder of llama.cpp with its converter, which scripts/llama_cpp.sh gets.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.conversation import chat_messages
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Prompt
from ida_tui.engine.export import gguf
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from tests.engine.export.test_export import tuned_greedy_answers
from tests.support.llama_server import llama_server

pytestmark = pytest.mark.skipif(
    not (Path(os.environ.get("LLAMA_CPP", "")) / gguf.CONVERTER_FILE).is_file(),
    reason="needs llama.cpp's converter: export LLAMA_CPP=$(scripts/llama_cpp.sh)",
)


@pytest.fixture(scope="module")
def exported(short_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """GGUF files of the short run's model, by format."""
    from ida_tui.engine.export.write import write_export
    from ida_tui.runs.directory import RunDirectory
    from ida_tui.runs.weights import find_weights

    folder = tmp_path_factory.mktemp("gguf")
    (merged := folder / "merged").mkdir()
    config = resolve(str(short_run / "config.yaml")).config
    write_export(config, find_weights(RunDirectory(short_run), config), "merged", merged)
    files = {dtype: folder / f"{dtype}.gguf" for dtype in ("float32", "q8_0")}
    tools = gguf.find_tools("q8_0")
    gguf.convert_to_gguf(tools, merged, files["float32"], "float32")
    gguf.quantize(tools, merged, files["float32"], files["q8_0"], "q8_0")
    return files


@pytest.fixture(scope="module")
def prompts() -> Sequence[Prompt]:
    return resolve("quickstart").config.prompts.held_out()[::3]


@pytest.fixture(scope="module")
def expected(short_run: Path, prompts: Sequence[Prompt]) -> list[str]:
    return tuned_greedy_answers(short_run, [prompt.text for prompt in prompts])


def post(address: str, path: str, **body: object) -> Any:
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1.0), ("q8_0", 0.7)])
def test_llama_cpp_answers_as_the_tuned_model_does(
    exported: Mapping[str, Path],
    prompts: Sequence[Prompt],
    expected: list[str],
    dtype: str,
    least: float,
) -> None:
    same = 0
    with llama_server(exported[dtype], context=512) as base_url:
        for prompt, answer in zip(prompts, expected, strict=True):
            messages = chat_messages(prompt.text)
            reply = post(base_url, "/chat/completions", messages=messages, temperature=0)
            same += reply["choices"][0]["message"]["content"].strip() == answer.strip()
    assert same / len(prompts) >= least


def test_llama_cpp_reads_a_prompt_as_the_same_tokens(
    exported: Mapping[str, Path], prompts: Sequence[Prompt]
) -> None:
    model = resolve("quickstart").config.model
    chat = ChatFormat(load.load_tokenizer(model), model)
    with llama_server(exported["q8_0"], context=512) as base_url:
        address = base_url.removesuffix("/v1")
        for text in (prompts[0].text, "It's 1234.5 §µ ", "  naïve 你好\n\n\t🙂 <|im_end|> x"):
            messages = chat_messages(text)
            prompt = post(address, "/apply-template", messages=messages)["prompt"]
            tokens = post(address, "/tokenize", content=prompt, add_special=True)["tokens"]
            assert tokens == chat.encode(text)
