"""One way to load a model and to sample from it: training, evaluation, chat and exports agree."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ida_tui.cli.main import main
from ida_tui.config import embedded
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config, ModelConfig
from ida_tui.engine.inference.generate import generate_answers, generate_tokens
from ida_tui.engine.model import generation, load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.errors import IdaError, UsageError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import evaluations

OTHER_END_TOKEN = 1500
"""The end token in the configuration files; the tokenizer's is another one."""
SHORT = (
    "training.max_steps=1",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=24",
)


def edit_json(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes a field."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: v for name, v in values.items() if v is not None}))


def chat_tune_of_a_base_model(folder: Path) -> Path:
    """The embedded model with the files of many chat models: no pad token, and a base model's end token."""
    shutil.copytree(embedded.model_folder(), folder)
    edit_json(folder / "config.json", eos_token_id=OTHER_END_TOKEN, pad_token_id=None)
    edit_json(folder / "generation_config.json", eos_token_id=OTHER_END_TOKEN, pad_token_id=None)
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    return folder


def loaded(folder: Path) -> tuple[Any, Any, Config]:
    """Model, tokenizer and quickstart profile of a folder."""
    config = resolve("quickstart", [f"model={folder}", "training.max_completion_length=24"]).config
    tokenizer = load.load_tokenizer(config.model)
    return load.load_model(config.model, "float32", tokenizer), tokenizer, config


# --- one set-up ----------------------------------------------------------------------------------


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = load.load_tokenizer(
        ModelConfig(path=str(chat_tune_of_a_base_model(tmp_path / "m")))
    )
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_without_an_end_token_takes_that_of_the_configurations(tmp_path: Path) -> None:
    folder = chat_tune_of_a_base_model(tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    edit_json(folder / "config.json", eos_token_id=2)
    edit_json(folder / "generation_config.json", eos_token_id=[OTHER_END_TOKEN, 2])

    assert load.load_tokenizer(ModelConfig(path=str(folder))).eos_token_id == OTHER_END_TOKEN

    (folder / "generation_config.json").unlink()
    assert load.load_tokenizer(ModelConfig(path=str(folder))).eos_token_id == 2

    edit_json(folder / "config.json", eos_token_id=None)
    with pytest.raises(IdaError, match="no end token"):
        load.load_tokenizer(ModelConfig(path=str(folder)))


@pytest.mark.parametrize(
    ("in_config", "in_generation_config", "expected"),
    [
        (2, 2, [2]),
        (OTHER_END_TOKEN, OTHER_END_TOKEN, [2, OTHER_END_TOKEN]),
        (OTHER_END_TOKEN, 7, [2, 7, OTHER_END_TOKEN]),
        (0, [0, 7], [2, 0, 7]),
        (None, None, [2]),
    ],
)
def test_an_answer_ends_at_the_end_tokens_of_tokenizer_and_both_configurations(
    in_config: Any, in_generation_config: Any, expected: list[int], tmp_path: Path
) -> None:
    folder = chat_tune_of_a_base_model(tmp_path / "model")
    edit_json(folder / "config.json", eos_token_id=in_config)
    edit_json(folder / "generation_config.json", eos_token_id=in_generation_config)
    model, _, _ = loaded(folder)
    assert generation.end_token_ids(model) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_both_engines_answer_with_the_same_tokens_at_the_training_penalty(
    temperature: float, tmp_path: Path
) -> None:
    folder = chat_tune_of_a_base_model(tmp_path / "model")
    # Published sampling parameters, which only transformers knows.
    edit_json(
        folder / "generation_config.json", repetition_penalty=5.0, no_repeat_ngram_size=1, top_k=1
    )
    model, tokenizer, config = loaded(folder)
    training = config.training.model_copy(update={"repetition_penalty": 1.3, "top_k": 1})
    prompts = config.prompts.held_out()[:6]
    texts = []
    for engine in ("fast", "plain"):
        settings = config.model_copy(update={"engine": engine, "training": training})
        ids = [ChatFormat(tokenizer, config.model).encode(prompt.text) for prompt in prompts]
        answers, after = generate_tokens(
            model, tokenizer, settings, ids, temperature=temperature, check=True
        )
        assert after.engine == engine
        texts.append(answers)
    assert texts[0] == texts[1]
    assert {row[-1] for row in texts[0] if len(row) < 24} <= {2, OTHER_END_TOKEN}
    assert model.generation_config.repetition_penalty == 5.0, "kept for exports"


def test_the_sampling_parameters_of_the_training_apply_at_every_temperature() -> None:
    training = resolve("quickstart", ["training.top_p=0.9", "training.min_p=0.1"]).config.training
    assert generation.token_sampler(training, 0.5) == TokenSampler(0.5, 0, 0.9, 0.1, 1.0)


def test_an_evaluation_draws_only_tokens_that_the_training_could_draw(tmp_path: Path) -> None:
    model, tokenizer, config = loaded(embedded.model_folder())
    training = config.training.model_copy(update={"top_k": 1})
    only_top_token = config.model_copy(update={"training": training})
    prompts = config.prompts.held_out()[:4]
    drawn, greedy = (
        generate_answers(
            model,
            tokenizer,
            settings.model_copy(
                update={"evaluation": config.evaluation.model_copy(update={"temperature": t})}
            ),
            "cpu",
            prompts,
            samples=1,
            seed=3,
        )
        for settings, t in ((only_top_token, 1.0), (config, 0.0))
    )
    assert [answer.text for answer in drawn] == [answer.text for answer in greedy]


def test_all_dropout_of_a_loaded_model_is_off(tmp_path: Path) -> None:
    folder = chat_tune_of_a_base_model(tmp_path / "model")
    edit_json(folder / "config.json", attention_dropout=0.4)
    model, _, _ = loaded(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)
    assert model.config.attention_dropout == 0.4, "kept for exports"


def test_only_one_module_loads_models_and_tokenizers() -> None:
    allowed = {"engine/model/load.py", "engine/model/trained.py"}
    package = Path(load.__file__).parents[2]
    call = re.compile(
        r"^(?!\s*yield).*\b\w+\.from_pretrained\(|apply_chat_template\(|eos_token_id or"
    )
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for line in file.read_text().splitlines()
        if call.search(line) and not file.match("analysis/model_card.py")
    }
    # The plain scripts of the benchmark use nothing of this package.
    assert found <= {*allowed, "engine/model/chat_format.py", "engine/bench/trainers.py"}


def test_only_one_module_builds_chat_messages() -> None:
    package = Path(load.__file__).parents[2]
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"""["']role["']\s*:""", file.read_text())
    }
    # The messages of the judge's server are in its prompt; reward functions get completions as messages.
    # The conversations of data files are read, not built. The benchmark runs TRL in plain scripts.
    others = {
        "engine/bench/trainers.py",
        "judge/backends/openai/prompt.py",
        "rewards/function_call.py",
        "config/data/conversation_rows.py",
    }
    assert found == {"config/conversation.py", *others}


# --- a revision of a Hugging Face model ----------------------------------------------------------


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A hub cache with two revisions of acme/tiny: `v2`, and a `main` that cannot be loaded."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hf")
    repository = home / "hub/models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    for revision, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        (repository / "refs" / revision).write_text(commit)
        chat_tune_of_a_base_model(repository / "snapshots" / commit)
    main_branch = repository / "snapshots" / ("a" * 40)
    for file in main_branch.iterdir():
        file.unlink()
    (main_branch / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield repository


@dataclass(frozen=True)
class HubRun:
    """A finished run of revision v2, which barely moved the weights."""

    directory: RunDirectory
    folder: Path

    def command(self, *arguments: str) -> int:
        """The exit code of a command in the run's folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            return main(arguments)

    def answers(self, index: int) -> dict[tuple[str, str], tuple[str, int]]:
        """Text and number of tokens of each answer of an evaluation, by model and prompt."""
        rows = evaluations.read_answers(evaluations.list_evaluations(self.directory)[index])
        return {(row.model, row.prompt_id): (row.text, row.tokens) for row in rows}


@pytest.fixture(scope="module")
def hub_run(hub_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> HubRun:
    folder = tmp_path_factory.mktemp("hub-run")
    run = HubRun(RunDirectory(folder / "outputs/quickstart/latest"), folder)
    arguments = ("model=acme/tiny", "model.revision=v2", "training.learning_rate=1e-9")
    code = run.command("--run", "quickstart", *arguments, *SHORT, "evaluation.samples=1")
    assert code == 0
    return HubRun(RunDirectory(run.directory.path.resolve()), folder)


def test_before_and_after_training_an_answer_ends_at_the_same_tokens(hub_run: HubRun) -> None:
    answers = hub_run.answers(0)
    changed = [
        prompt for model, prompt in answers if answers["base", prompt] != answers["tuned", prompt]
    ]
    assert not changed
    assert sum(tokens for _, tokens in answers.values()) < 0.9 * 24 * len(answers)


def test_the_evaluate_command_gives_the_answers_of_the_runs_own_evaluation(hub_run: HubRun) -> None:
    assert hub_run.command("evaluate", "quickstart", "--samples", "1") == 0
    assert hub_run.answers(0) == hub_run.answers(1)


@pytest.mark.parametrize("kind", ["--adapter", "--merged"])
def test_an_export_reads_the_runs_revision_and_names_it(kind: str, hub_run: HubRun) -> None:
    output = hub_run.folder / kind.strip("-")
    assert hub_run.command("export", "quickstart", kind, "--output", str(output)) == 0
    if kind == "--adapter":
        assert json.loads((output / "adapter_config.json").read_text())["revision"] == "v2"
        card = (output / "README.md").read_text()
        assert 'AutoModelForCausalLM.from_pretrained("acme/tiny", revision="v2")' in card
    else:
        exported = json.loads((output / "generation_config.json").read_text())
        assert set(exported["eos_token_id"]) == {2, OTHER_END_TOKEN}


def test_a_run_of_a_revision_reads_no_other_revision(hub_run: HubRun) -> None:
    notices = hub_run.directory.events.read_text()
    assert "RunStarted" in notices
    assert "Could not find a config file" not in notices


def test_the_reference_model_is_the_policy_of_the_first_step(
    hub_cache: Path, ida_tui_here: Any
) -> None:
    done = ida_tui_here(
        "--run", "quickstart", "model=acme/tiny", "model.revision=v2", "training.method=full",
        "training.beta=0.1", "training.learning_rate=1e-5", *SHORT, "evaluation.enabled=false", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (step,) = (event for event in done.events if event["type"] == "StepFinished")
    assert step["kl"] == pytest.approx(0, abs=1e-6)


def test_vllm_is_refused_with_a_revision_that_it_would_not_load() -> None:
    with pytest.raises(UsageError, match="vLLM would load the default revision"):
        resolve(
            "quickstart",
            ["model=acme/tiny", "model.revision=v2", "engine=plain", "training.use_vllm=true",
             "training.vllm_mode=colocate"],
        )  # fmt: skip
