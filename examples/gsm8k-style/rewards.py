"""Rewards for word problems with a number as their answer, one completion at a time."""

import re


def accuracy(completion, answer):
    """1 if the last number of the completion is the right one, else 0."""
    numbers = re.findall(r"-?\d+", completion.replace(",", ""))
    return float(bool(numbers) and numbers[-1] == answer.rpartition("####")[2].strip())


async def shape(completion):
    """1 if the completion ends with `#### NUMBER`, as the solutions of GSM8K do, else 0."""
    return float(re.search(r"#### -?\d+\s*$", completion) is not None)
