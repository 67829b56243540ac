"""Exports: they match the run's model, work without ida-tui, and state their origin."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ida_tui.config.resolve import resolve
from ida_tui.engine.export import gguf
from ida_tui.errors import IdaError
from ida_tui.runs.store import exports
from tests.support.hub_server import hub
from tests.support.patience import PATIENCE_S

PLAIN_TRANSFORMERS = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
answers = []
for prompt in prompts:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True,
        return_dict=True, return_tensors="pt",
    )
    out = model.generate(**inputs, do_sample=False, max_new_tokens=64)
    answers.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
assert not any(name.split(".")[0] in ("ida_tui", "peft") for name in sys.modules)
print(json.dumps(answers))
"""

PUSH_WITH_ANOTHER_TOKEN = """
import sys
from pathlib import Path
from ida_tui.errors import IdaError
from ida_tui.engine.export.hub import push_export
try:
    push_export(Path(sys.argv[1]), "me/mine", "hf_wrong", public=False)
except IdaError as error:
    print(error.lines())
"""


def front_matter(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    metadata: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return metadata


def tuned_greedy_answers(run: Path, prompts: list[str]) -> list[str]:
    """Greedy answers of the base model with the run's adapter."""
    from ida_tui.engine.inference.generate import generate_answers
    from ida_tui.engine.model import load, trained
    from ida_tui.runs.directory import RunDirectory
    from ida_tui.runs.weights import find_weights

    config = resolve(str(run / "config.yaml"), ["evaluation.temperature=0"]).config
    prompts_to_answer = [p for p in config.prompts.held_out() if p.text in prompts]
    tokenizer = load.load_tokenizer(config.model)
    weights = find_weights(RunDirectory(run), config)
    model = trained.load_trained_model(config, weights, "float32", tokenizer)
    answers = generate_answers(
        model, tokenizer, config, "cpu", prompts_to_answer, samples=1, seed=0
    )
    return [answer.text for answer in answers]


def test_a_merged_export_gives_the_trained_models_answers_in_plain_transformers(
    ida_tui_here: Any, own_run: Path
) -> None:
    done = ida_tui_here("export", "quickstart", "--merged", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    folder = Path(result["folder"])
    assert folder == (own_run / "export/merged").absolute()
    assert result["same_greedy_answers"] == result["prompts"] > 0
    assert result["logits_difference"] < 1e-4

    config = resolve("quickstart").config
    prompts = [prompt.text for prompt in config.prompts.held_out()][::6]
    plain = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_TRANSFORMERS, str(folder), json.dumps(prompts)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert json.loads(plain.stdout) == tuned_greedy_answers(own_run, prompts)
    json_text = "".join(path.read_text() for path in folder.glob("*.json"))
    assert str(Path.home()) not in json_text
    assert "local_files_only" not in json_text


def test_a_run_of_the_exported_model_starts_where_the_exported_run_ended(
    ida_tui_here: Any, own_run: Path
) -> None:
    """Its answers before training are exactly the exported run's answers after training."""
    from ida_tui.runs.directory import RunDirectory
    from ida_tui.runs.store import evaluations

    assert ida_tui_here("export", "quickstart", "--merged", "--output", "mine").code == 0
    run = ida_tui_here(
        "--run", "quickstart", "model=./mine", "training.max_steps=1", "evaluation.samples=1",
        "output_dir=others",
    )  # fmt: skip
    assert run.code == 0, run.err
    after, before = (
        [
            (row.prompt_id, row.sample, row.text, row.scores)
            for row in evaluations.read_answers(
                evaluations.list_evaluations(RunDirectory(directory))[0]
            )
            if row.model == model
        ]
        for directory, model in (
            (own_run, "tuned"),
            (Path("others/quickstart/latest").resolve(), "base"),
        )
    )
    assert len(before) == 30
    assert before == after


def test_exported_weights_that_do_not_match_the_run_are_discarded(
    ida_tui_here: Any, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    # Removes the adapter instead of merging it.
    monkeypatch.setattr(
        peft.LoraModel, "merge_and_unload", lambda self, **_: self.unload(), raising=True
    )
    done = ida_tui_here("export", "quickstart", "--merged")
    assert done.code == 1
    assert "the exported weights do not match the run's model" in done.err
    assert "logit difference" in done.err
    assert list((own_run / "export").iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_16_bit_export_is_close_to_the_run_and_half_the_size(
    ida_tui_here: Any, own_run: Path, dtype: str
) -> None:
    done = ida_tui_here(
        "export", "quickstart", "--merged", "--dtype", dtype, "--output", "small", "--json"
    )
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["logits_difference"] < 5e-2
    assert json.loads(Path("small/config.json").read_text())["dtype"] == dtype
    assert Path("small/model.safetensors").stat().st_size < 2_000_000


def test_an_exported_adapter_has_no_local_path_of_its_base_model(
    ida_tui_here: Any, own_run: Path
) -> None:
    done = ida_tui_here("export", "quickstart", "--adapter")
    assert done.code == 0, done.err
    folder = own_run / "export/adapter"
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert weights == (own_run / "adapter/adapter_model.safetensors").read_bytes()
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "embedded"
    assert front_matter(folder)["library_name"] == "peft"


def test_a_gguf_file_has_the_runs_weights_tokenizer_and_chat_template(
    ida_tui_here: Any, own_run: Path
) -> None:
    try:
        gguf.find_converter()
    except IdaError as missing:
        pytest.skip(f"{missing.title} (it needs LLAMA_CPP, or {gguf.CONVERTER_FILE} on PATH)")
    done = ida_tui_here("export", "quickstart", "--gguf")
    assert done.code == 0, done.err
    assert "checked the GGUF file: 46 tensors, all matrices match" in done.err
    folder = own_run / "export/gguf"
    (file,) = folder.glob("*.gguf")
    assert {path.name for path in folder.iterdir()} == {
        "Modelfile",
        "README.md",
        "export.json",
        file.name,
    }
    assert file.read_bytes()[:4] == b"GGUF"
    for marker in (b"qwen3.block_count", b"tokenizer.chat_template", b"gpt-2"):
        assert marker in file.read_bytes()


def test_an_earlier_export_is_replaced_only_with_overwrite(
    ida_tui_here: Any, own_run: Path
) -> None:
    assert ida_tui_here("export", "quickstart", "--adapter").code == 0
    again = ida_tui_here("export", "quickstart", "--adapter")
    assert (again.code, "--overwrite" in again.err) == (2, True)
    replaced = ida_tui_here("export", "quickstart", "--adapter", "--overwrite")
    assert replaced.code == 0
    assert "✓ replaced" in replaced.err
    assert [path.name for path in (own_run / "export").iterdir()] == ["adapter"]


def test_a_folder_that_is_not_an_export_is_never_replaced(ida_tui_here: Any, own_run: Path) -> None:
    Path("precious").mkdir()
    Path("precious/thesis.txt").write_text("all of it")
    done = ida_tui_here("export", str(own_run), "--adapter", "--output", "precious", "--overwrite")
    assert done.code == 2
    assert "is not an ida-tui export" in done.err
    assert Path("precious/thesis.txt").read_text() == "all of it"


def test_an_unfinished_run_is_exported_from_its_newest_checkpoint(
    ida_tui_here: Any, own_run: Path
) -> None:
    shutil.rmtree(own_run / "adapter")
    shutil.rmtree(own_run / "checkpoints/checkpoint-2")
    done = ida_tui_here("export", "quickstart", "--adapter", "--json")
    assert done.code == 0, done.err
    assert "the weights of step 1 of 2, checkpoint-1" in done.err
    assert (json.loads(done.out)["step"], json.loads(done.out)["final"]) == (1, False)
    card = (own_run / "export/adapter/README.md").read_text()
    assert "**The run did not finish**: these are the weights after step 1 of 2." in card
    assert "These weights have not been evaluated" in card


def test_a_full_training_run_is_exported_as_a_full_model(ida_tui_here: Any) -> None:
    run = ida_tui_here(
        "--run", "quickstart", "training.method=full", "training.learning_rate=1e-4",
        "training.max_steps=1", "evaluation.enabled=false",
    )  # fmt: skip
    assert run.code == 0, run.err
    refused = ida_tui_here("export", "quickstart", "--adapter")
    assert (refused.code, "has no adapter" in refused.err) == (2, True)
    done = ida_tui_here("export", "quickstart", "--merged", "--output", "mine", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["logits_difference"] == 0


def test_the_model_card_states_the_models_origin_and_results(
    ida_tui_here: Any, own_run: Path
) -> None:
    assert ida_tui_here("export", "quickstart", "--merged").code == 0
    folder = own_run / "export/merged"
    assert front_matter(folder) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["ida-tui", "grpo", "trl", "lora"],
    }
    card = (folder / "README.md").read_text()
    for expected in (
        "| profile | quickstart |",
        "| judge | offline heuristic |",
        "greedy answers match",
        "| 2 | 0.",  # the reward of the second step
        "harmless, 20 prompts",
        "95% interval",
        "It does not know whether an answer is true",
        "of 120, 95% interval",
    ):
        assert expected in card, expected


@pytest.mark.parametrize(
    ("settings", "license_id", "expected"),
    [
        (["model=qwen3-0.6b"], "apache-2.0", "Apache-2.0."),
        (["model=someone/else"], None, "Unknown: see the model card of someone/else."),
    ],
)
def test_the_license_of_the_base_model_is_stated_only_if_it_is_known(
    settings: list[str], license_id: str | None, expected: str
) -> None:
    from ida_tui.analysis.model_card import CardInputs, front_matter, render_card
    from ida_tui.events.state import RunState
    from ida_tui.runs.weights import TrainedWeights

    config = resolve("quickstart", settings, verify=False).config
    weights = TrainedWeights(Path("adapter"), 2, True, RunState())
    facts = CardInputs(config, weights, "adapter", "float32", "checked", {}, None)
    assert front_matter(facts).get("license") == license_id
    assert front_matter(facts)["base_model"] == config.model.path
    assert render_card(facts).endswith(f"## License of the base model\n\n{expected}\n")


def test_a_push_without_a_network_is_one_error_and_keeps_the_export(
    ida_tui_unprepared: Any, own_run: Path, tmp_path: Path
) -> None:
    done = ida_tui_unprepared(
        "export", "quickstart", "--adapter", "--push", "me/mine",
        HF_HOME=str(tmp_path), HF_TOKEN="hf_secret", HF_ENDPOINT="http://127.0.0.1:1",
        HF_HUB_OFFLINE="0",
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert "the upload to the Hugging Face Hub failed: [Errno 111] Connection refused" in done.err
    assert "hf_secret" not in done.err + done.out
    assert (own_run / "export/adapter/README.md").is_file()


def test_nothing_is_pushed_without_a_token(
    ida_tui_unprepared: Any, own_run: Path, tmp_path: Path
) -> None:
    done = ida_tui_unprepared(
        "export", "quickstart", "--adapter", "--push", "me/mine",
        HF_HOME=str(tmp_path / "hf"), HF_TOKEN="", HF_HUB_OFFLINE="0",
    )  # fmt: skip
    assert done.code == 2
    assert "needs a token" in done.err
    assert not (own_run / "export").exists()


def test_a_push_uploads_every_file_to_a_private_repository_and_never_reveals_the_token(
    ida_tui_unprepared: Any, own_run: Path, tmp_path: Path
) -> None:
    secret = "hf_a-secret-of-the-test"
    with hub(secret) as server:
        done = ida_tui_unprepared(
            "export", "quickstart", "--adapter", "--push", "me/mine",
            HF_HOME=str(tmp_path / "hf"), HF_TOKEN=secret, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0",
        )  # fmt: skip
        assert done.code == 0, done.err
        folder = own_run / "export/adapter"
        assert server.files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert server.created[0]["visibility"] == "private"
        refused = subprocess.run(
            [sys.executable, "-c", PUSH_WITH_ANOTHER_TOKEN, str(folder)],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            env=os.environ | {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"},
        )  # fmt: skip
    assert "the upload to the Hugging Face Hub failed" in refused.stdout
    run_files = "".join(p.read_text(errors="replace") for p in own_run.rglob("*") if p.is_file())
    for text in (done.out, done.err, run_files):
        assert secret not in text
    assert "hf_wrong" not in refused.stdout + refused.stderr


def test_a_failed_export_is_removed_and_a_successful_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "export"

    def fail_halfway() -> None:
        with exports.staged_directory(target) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.glob("*export*")) == []
    with exports.staged_directory(target) as folder:
        (folder / "whole").write_text("x")
    assert [path.name for path in target.iterdir()] == ["whole"]
