"""Sums as prompts with their answers, and reward functions for them."""

REWARDS = """
print("imported")


def accuracy(completion, answer):
    return float(completion.split()[:1] == [answer])


def thorough(completions: list[str], **kwargs):
    return [min(1.0, len(text) / 400) for text in completions]
"""
PROMPTS = """
prompts:
  - {id: a, kind: harmless, text: "One plus one?", columns: {answer: two}}
  - {id: b, kind: harmless, text: "One plus two?", columns: {answer: three}}
  - {id: c, kind: harmless, split: held-out, text: "Two plus two?", columns: {answer: four}}
"""
