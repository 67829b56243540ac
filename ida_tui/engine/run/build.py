"""Trainer construction from a profile: model, adapter, dataset, TRL arguments, recorder and judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from ida_tui.config.conversation import prompt_context
from ida_tui.config.prompts import RUBRIC_COLUMN
from ida_tui.config.schema import Config, Prompt, PromptSet
from ida_tui.engine.distributed.environment import per_rank_config
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.model import load
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.finite_outputs import require_finite_outputs
from ida_tui.engine.run.preflight import PreflightResult
from ida_tui.engine.trainer.arguments import custom_optimizer, grpo_config
from ida_tui.engine.trainer.fast import FastTrainer
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.engine.trainer.reward import RewardSource
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.events.types import RunStarted
from ida_tui.judge.service import JudgeService
from ida_tui.planning import memory
from ida_tui.rewards.formulas import formula_text
from ida_tui.runs.directory import RunDirectory


def build_trainer(
    config: Config,
    preflight: PreflightResult,
    checkpoints: Path,
    *,
    process_group: ProcessGroup,
    recorder: StepRecorder,
    reward_source: RewardSource,
    on_step_end: Callable[[], None],
    on_train_begin: Callable[[], None],
    between_steps: Callable[[], None],
    checkpoint_metadata: Callable[[], Mapping[str, Any]],
) -> InstrumentedGRPOTrainer:
    """Load the model and build the trainer of one run.

    Args:
        config: the resolved profile.
        preflight: device, number formats and tokenizer.
        checkpoints: the folder for checkpoints.
        process_group: the processes that train the model.
        recorder: records the steps.
        reward_source: supplies the verdicts.
        on_step_end: called when a step is complete.
        on_train_begin: called before the first step, and before the next one after a resume.
        between_steps: called between two steps, where the run may pause.
        checkpoint_metadata: returns the run metadata that a checkpoint's seal stores.

    Raises:
        IdaError: the weights cannot be loaded, or the model computes no finite numbers.
    """
    arguments = grpo_config(
        per_rank_config(config, process_group.world_size),
        preflight.recipe,
        preflight.device,
        checkpoints,
    )
    process_group.shares_model = config.training.sharding == "fsdp" and not process_group.is_single
    adapter = (
        load.peft_config(config.lora, config.model) if config.training.method == "lora" else None
    )
    trainer_class: Callable[..., InstrumentedGRPOTrainer] = InstrumentedGRPOTrainer
    if config.engine == "fast":
        trainer_class = partial(
            FastTrainer,
            rollout_rows=config.training.rollout_rows,
            sampling_weights=config.training.sampling_weights,
        )

    def load_model() -> Any:
        return load.load_model(
            config.model,
            preflight.recipe.weights,
            preflight.tokenizer,
            shards=process_group.world_size if process_group.shares_model else 1,
        )

    trainer = trainer_class(
        process_group=process_group,
        recorder=recorder,
        reward_source=reward_source,
        on_step_end=on_step_end,
        between_steps=between_steps,
        checkpoint_metadata=checkpoint_metadata,
        model=load_model(),
        load_reference=load_model,
        args=arguments,
        optimizer=custom_optimizer(config.training, preflight.recipe),
        processing_class=preflight.tokenizer,
        train_dataset=training_dataset(
            config.prompts,
            ChatFormat(preflight.tokenizer, config.model),
            with_columns=bool(config.rubric.computed_axes),
        ),
        chat_format=ChatFormat(preflight.tokenizer, config.model),
        peft_config=adapter,
    )
    if process_group.is_rank_zero or process_group.shares_model:
        require_finite_outputs(
            trainer.model,
            preflight.tokenizer,
            config.model,
            preflight.recipe,
            trainer.accelerator.autocast(),
        )
    if adapter is not None and not set(EMBEDDING_LAYER_NAMES) & set(config.lora.target_modules):
        # PEFT would read the configuration in the default branch of the model's repository, to see whether
        # the vocabulary was resized. It never is.
        trainer.model.save_pretrained = partial(
            trainer.model.save_pretrained, save_embedding_layers=False
        )
    # These callbacks print to the terminal, which belongs to the app or the command line.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_TrainBeginCallback(on_train_begin))
    return trainer


class _TrainBeginCallback(TrainerCallback):  # type: ignore[misc]
    """Calls a function when training begins, with the weights of a checkpoint loaded."""

    def __init__(self, on_train_begin: Callable[[], None]) -> None:
        self._on_train_begin = on_train_begin

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Call the function."""
        self._on_train_begin()


def training_dataset(prompts: PromptSet, chat_format: ChatFormat, *, with_columns: bool) -> Dataset:
    """TRL's dataset of the training prompts, whose rows are made when a step needs them.

    Args:
        prompts: the prompt set.
        chat_format: how the model takes conversations.
        with_columns: whether all further columns are needed, for reward functions.
    """
    train = prompts.train()

    def make_row(position: int) -> dict[str, Any]:
        prompt = train[position]
        context = prompt_context(prompt, prompts.system)
        return {
            "prompt": chat_format.messages(prompt.text, context),
            "prompt_id": prompt.id,
            "prompt_text": prompt.text,
            "kind": prompt.kind,
            "context": [list(message) for message in context],
            "columns": json.dumps(prompt.columns if with_columns else _judged_columns(prompt)),
        }

    positions = Dataset.from_dict({"position": range(len(train))})
    return positions.with_transform(_RowReader(make_row))


class _RowReader:
    """Makes the rows at some positions.

    `datasets` hashes what it is given by pickling it; the prompts are not a part of that.
    """

    def __init__(self, make_row: Callable[[int], dict[str, Any]]) -> None:
        self._make_row = make_row

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        rows = [self._make_row(position) for position in batch["position"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


def _judged_columns(prompt: Prompt) -> dict[str, Any]:
    """The columns of a prompt that the judge reads: its additional checks."""
    return {RUBRIC_COLUMN: list(prompt.checks)} if prompt.checks else {}


def run_started_event(
    config: Config,
    preflight: PreflightResult,
    run_id: str,
    directory: RunDirectory,
    trainer: InstrumentedGRPOTrainer,
    judge: JudgeService,
) -> RunStarted:
    """The RunStarted event of a run that is scored by this judge."""
    training, counts = config.training, load.count_parameters(trainer.model)
    rank_config = per_rank_config(config, trainer.world_size)
    planned = memory.plan(rank_config, preflight.device, processes=trainer.world_size)
    return RunStarted(
        run_id=run_id,
        directory=str(directory.path),
        experiment=config.name,
        model=config.model.name or config.model.path,
        judge=judge.label,
        device=preflight.device,
        dtype=preflight.recipe.base_format,
        precision=preflight.recipe.describe(training.method),
        method=training.method,
        params=counts.base,
        trainable_params=counts.trainable,
        steps=config.planned_steps(),
        prompts=len(config.prompts.train()),
        generations=training.num_generations,
        completions_per_step=training.completions_per_step,
        seed=config.seed,
        limit_gb=round(preflight.limit / 1e9, 1),
        planned_gb=round(planned.peak_bytes / 1e9, 2) if planned else None,
        plan=planned.training_rows() if planned else (),
        processes=trainer.world_size,
        evaluation_plan=planned.evaluation_rows() if planned else (),
        scoring=judge.scoring,
        formula=formula_text(judge.formula, config.rubric.reward_name),
        axes=config.rubric.axis_list,
        reward=config.rubric.reward_name,
    )
