"""The data that the trainer reads: rows of the prompts, made when a step needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from ida_tui.config.prompts import Prompt
from ida_tui.config.resolve import resolve
from ida_tui.engine.run.build import training_dataset, training_row


class CountedPrompts(Sequence[Prompt]):
    """A hundred thousand prompts that count how many were made."""

    def __init__(self) -> None:
        self.made = 0

    def __len__(self) -> int:
        return 100_000

    @overload
    def __getitem__(self, position: int) -> Prompt: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[Prompt]: ...

    def __getitem__(self, position: int | slice) -> Prompt | Sequence[Prompt]:
        assert isinstance(position, int)
        self.made += 1
        return Prompt(id=f"p{position}", text=f"What is {position}?")

    def __iter__(self) -> Iterator[Prompt]:
        raise AssertionError("all prompts are made at once")


def test_only_the_prompts_of_a_step_are_made() -> None:
    prompts = CountedPrompts()

    dataset = training_dataset(prompts)

    assert len(dataset) == 100_000
    assert dataset[99_999] == training_row(prompts[99_999])
    assert dataset[[0, 1]]["prompt_id"] == ["p0", "p1"]
    assert prompts.made == 4


def test_the_rows_are_those_of_the_profile() -> None:
    train = resolve("quickstart").config.prompts.train()

    assert list(training_dataset(train)) == [training_row(prompt) for prompt in train]
