"""Checks of the prompts of a resolved experiment: their source, their ids and what they are used for."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from ida_tui.config.prompts import SOURCE_KEYS
from ida_tui.config.repeated_prompts import repeated_held_out_note, repeated_training_note
from ida_tui.config.schema import Config, Prompt, PromptSet
from ida_tui.util.finding import Finding, error_finding, note_finding


def check_prompts(config: Config) -> Iterator[Finding]:
    """Errors and notes about the prompts to train on and the held-out ones."""
    prompts = config.prompts
    about = "prompts.prompts" if prompts.source is None else "prompts.source"
    yield from _check_source(prompts)
    if prompts.problem:
        return
    if not prompts.rows():
        yield error_finding(
            about,
            "there are no prompts",
            "add at least one: - {id: NAME, kind: harmless, text: the user's message}"
            "\nor use a data file: prompts=FILE.jsonl",
        )
        return
    if prompts.source is None:
        yield from _check_listed_prompts(prompts.prompts)
    train, known = _first_train_ids(prompts), _known_ids(prompts)
    for position, prompt_id in enumerate(prompts.only or []):
        key = f"prompts.only.{position}"
        if prompt_id in known and prompt_id not in train:
            yield error_finding(
                key,
                f'the prompt "{prompt_id}" is held out, so it cannot be trained on',
                f"remove the prompt from only:, or set split: train for it; "
                f"training ids: {_first_ids(train)}",
            )
        elif prompt_id not in known:
            close = difflib.get_close_matches(prompt_id, train, n=2)
            yield error_finding(
                key,
                f'only: contains the unknown prompt id "{prompt_id}"',
                f"did you mean {' or '.join(close)}?"
                if close
                else f"known ids: {_first_ids(train)}",
            )
    if not prompts.train() and not (prompts.only and train):
        yield error_finding(
            about if prompts.only is None else "prompts.only",
            "there are no prompts to train on",
            "set split: train for some prompts"
            if not train
            else f"list some ids, such as {_first_ids(train)}",
        )
    if config.evaluation.enabled and not prompts.held_out():
        has = "only training prompts with other ids" if prompts.repeated_held_out() else "none"
        yield error_finding(
            "evaluation.enabled",
            f"evaluation needs held-out prompts, but this prompt set has {has}",
            "set evaluation.enabled to false, or set split: held-out for some prompts"
            if prompts.source is None
            else "hold some out, such as prompts.held_out_fraction=0.1, or set evaluation.enabled=false",
        )
    if note := repeated_held_out_note(prompts):
        yield note_finding(about, note, "replace them, or remove them from the prompt set")
    if note := repeated_training_note(prompts):
        yield note_finding(about, note, "remove them if that is not intended")


def _check_source(prompts: PromptSet) -> Iterator[Finding]:
    """Keys of a source without one, and how the source was read."""
    if prompts.source is None:
        given = next((key for key in SOURCE_KEYS if key in prompts.model_dump()), None)
        if given is not None:
            yield error_finding(
                f"prompts.{given}",
                f"{given} belongs to a source, and these prompts are a list",
                "add prompts.source=FILE.jsonl, or remove the key",
            )
        return
    if prompts.prompts:
        yield error_finding(
            "prompts.source",
            "the prompts have both a list and a source",
            "remove prompts: or source:",
            "prompts.prompts",
        )
    if prompts.held_out_fraction is not None and (
        prompts.held_out_source or prompts.held_out_split
    ):
        yield error_finding(
            "prompts.held_out_fraction",
            "the held-out prompts are both a fraction of the rows and rows of their own",
            "remove held_out_fraction, or held_out_source and held_out_split",
            "prompts.held_out_source",
            "prompts.held_out_split",
        )
    if prompts.problem:
        yield note_finding(
            "prompts.source",
            f"the prompts are not known: {prompts.problem}",
            "put the data back to train or evaluate on it",
        )
    for note in prompts.source_notes():
        yield note_finding("prompts.source", note, "")


def _check_listed_prompts(prompts: list[Prompt]) -> Iterator[Finding]:
    for position, prompt in enumerate(prompts):
        if not prompt.text.strip():
            yield error_finding(
                f"prompts.prompts.{position}.text",
                f'the prompt "{prompt.id}" is empty',
                "add the user's message, or remove the prompt",
            )
    counts = Counter(p.id for p in prompts)
    for position, prompt in reversed(list(enumerate(prompts))):
        if counts[prompt.id] > 1:
            yield error_finding(
                f"prompts.prompts.{position}.id",
                f'two prompts have the id "{prompt.id}"',
                "rename one of them: ids must be unique within a set",
            )
            break


def _known_ids(prompts: PromptSet) -> set[str]:
    """The ids that `only` can name; not read without it."""
    return {p.id for p in prompts.rows()} if prompts.only else set()


def _first_train_ids(prompts: PromptSet) -> list[str]:
    """Ids of the prompts that can be trained on; without `only`, those of the first ones."""
    if prompts.only is None and prompts.source is not None:
        return [p.id for p in prompts.train()[:10]]
    return [p.id for p in prompts.rows() if p.split == "train"]


def _first_ids(ids: list[str]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
