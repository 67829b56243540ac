"""Notes on prompts of a set that have the same text as another one."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.config.schema import Prompt, PromptSet


def repeated_held_out_note(prompts: PromptSet) -> str:
    """Which held-out prompts are left out because their text is not new; empty if there are none."""
    repeated = prompts.repeated_held_out()
    if not repeated:
        return ""
    return (
        f"{_count_text(repeated, 'held-out')} the text of a training prompt or of another held-out prompt"
        f" ({_first_pairs(repeated)}): left out of the evaluation"
    )


def repeated_training_note(prompts: PromptSet) -> str:
    """Which training prompts repeat the text of another one; empty if there are none."""
    repeated = prompts.repeated_training()
    if not repeated:
        return ""
    return (
        f"{_count_text(repeated, 'training')} the text of another training prompt"
        f" ({_first_pairs(repeated)}), so this text is trained on more often"
    )


def _count_text(repeated: Sequence[tuple[Prompt, Prompt]], name: str) -> str:
    count = len(repeated)
    return f"{count} {name} prompt{'s have' if count != 1 else ' has'}"


def _first_pairs(repeated: Sequence[tuple[Prompt, Prompt]]) -> str:
    pairs = [f'"{prompt.id}" = "{earlier.id}"' for prompt, earlier in repeated[:3]]
    return ", ".join(pairs) + (", …" if len(repeated) > 3 else "")
