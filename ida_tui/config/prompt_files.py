"""Loader for evaluation prompts from a data file, a Hugging Face dataset or a prompts profile.

    loaded = load_prompts("xstest_prompts.csv", kind=None)

The same files and columns can be trained on. Two public layouts have a meaning of their own:

| layout | columns | which prompts are unsafe |
|---|---|---|
| XSTest | id or id_v2, prompt, type, label, … | `label` unsafe; without it, `type` contrast_… |
| JBB-Behaviors | Index, Goal, Target, Behavior, … | all or none, by the file name or `kind` |

The public data sets are not included; users download them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ida_tui.config.data.records import YAML_SUFFIXES
from ida_tui.config.data.source import is_hub_id
from ida_tui.config.prompt_text import normalize_prompt, separate_repeated
from ida_tui.config.resolve import names_data, resolve_profile
from ida_tui.config.schema import Prompt, PromptKind, PromptSet
from ida_tui.errors import UsageError
from ida_tui.util.paths import expand_home
from ida_tui.util.text import one_line

MAX_PROMPTS = 5_000
"""Maximum prompts; two models answer each one several times, and every answer is judged."""


@dataclass(frozen=True, slots=True)
class EvaluationPrompts:
    """Prompts loaded from a file or profile."""

    name: str
    """Name of the prompt set, or of the file."""
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()
    """How the file was read."""

    def without_trained(self, trained: Iterable[Prompt]) -> EvaluationPrompts:
        """The prompts not in `trained`, without duplicates, compared by normalized text."""
        mine = {normalize_prompt(prompt.text) for prompt in self.prompts}
        # Of many training prompts, only those that may be the same are held.
        same = [prompt for prompt in trained if normalize_prompt(prompt.text) in mine]
        distinct = separate_repeated(self.prompts, same)[0]
        return EvaluationPrompts(self.name, tuple(distinct), self.notes)


def load_prompts(
    name: str, kind: PromptKind | None, *, needs_kinds: bool = True
) -> EvaluationPrompts:
    """The prompts of a file, of a dataset or of a prompts profile.

    Args:
        name: a data file, the id of a dataset, or the name or the .yaml file of a prompts profile.
        kind: the kind of all prompts, for a file that has no kinds.
        needs_kinds: whether each prompt must say if it is harmless, as for a run that is about refusals.

    Raises:
        UsageError: the file cannot be read, has an unknown layout, has too many prompts, or does not say
            which ones are harmless.
    """
    path = expand_home(name)
    if names_data(name) or (path.suffix and path.suffix not in YAML_SUFFIXES and path.is_file()):
        label = name if is_hub_id(name) else path.name
        prompt_set = PromptSet(name=label, source=name)
    else:
        profile = resolve_profile("prompts", name).config
        assert isinstance(profile, PromptSet)
        prompt_set = profile
        if prompt_set.source is None:
            if kind is not None:
                raise _kind_conflict_error(name)
            return EvaluationPrompts(prompt_set.name or name, _selected(prompt_set, name))
    loaded = prompt_set.load(download=True, kind=kind)
    prompts = _selected(prompt_set, name)
    without = next((prompt for prompt in prompts if prompt.kind is None), None)
    if without is not None and (needs_kinds or any(prompt.kind for prompt in prompts)):
        raise UsageError(
            f"{one_line(name)} does not say which prompts are harmless and which are unsafe"
            f" ({without.id})",
            "add a kind column, or set one kind for all prompts: --kind harmless (or unsafe)",
            where=one_line(name),
        )
    return EvaluationPrompts(prompt_set.name or name, prompts, loaded.notes)


def _selected(prompt_set: PromptSet, name: str) -> tuple[Prompt, ...]:
    """The held-out prompts; a set without any is used in full."""
    prompts = prompt_set.held_out() or prompt_set.rows()
    if prompt_set.source is not None and len(prompts) > MAX_PROMPTS:
        raise UsageError(
            f"{one_line(name)} has {len(prompts):,} prompts; the maximum is {MAX_PROMPTS:,}",
            "use a subset of the prompts, such as a prompts profile with source: and limit:",
            where=one_line(name),
        )
    # Without a system prompt, a prompt gets that of its set, or else of the run.
    return tuple(
        prompt.model_copy(
            update={
                "split": "held-out",
                "system": prompt_set.system if prompt.system is None else prompt.system,
            }
        )
        for prompt in prompts
    )


def _kind_conflict_error(name: str) -> UsageError:
    return UsageError(
        f"{one_line(name)} already has a kind for each prompt",
        "remove --kind, which is only for files without kinds",
    )
