"""Training of the refusal classifier: from the sentences in `refusal_sentences.yaml` to its weights.

    uv run python scripts/train_refusal_classifier.py           # writes the weights
    uv run python scripts/train_refusal_classifier.py --check   # compares them with those in the package

The sentences were written for this project; nothing is taken from a data set. Each has one of three labels:
it declines, it redirects the user (a helpline, a lecture, an offer), or it helps. Slots such as {act} are
filled with several phrases, so that a topic says nothing about the label. The answers of `labeled.yaml` that
are not held out are added.

The result is the same file on every machine, byte for byte: no random numbers, only sums in a fixed order,
products, quotients and square roots of doubles, which IEEE 754 defines exactly.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ida_tui.judge.backends.offline.sentences import (
    BUCKETS,
    STEP,
    WEIGHTS_FILE,
    features_of,
    scale_of,
    tokens_of,
)
from ida_tui.judge.calibration.labeled import load_labeled_answers
from scripts.embedded_model.corpus import Corpus, ReplyKind

SENTENCES = Path(__file__).with_name("refusal_sentences.yaml")
LABELS = ("decline", "redirect", "help")
FILLINGS = 4
"""How many sentences are made of one with a slot."""
STEPS = 300
PENALTY = 1.5e-4
"""Weight of the sum of squared weights in the loss."""
MARGIN = 1.0
TOY_REPLIES: dict[ReplyKind, int] = {"decline": 150, "over-refuse": 50, "answer": 150}
"""How many replies are made as the embedded model's training text is."""
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def main() -> int:
    """Train and write the weights, or compare them; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    options = parser.parse_args()
    content = train(list(load_sentences()))
    if options.check:
        same = content == WEIGHTS_FILE.read_bytes()
        print("the weights are the same" if same else "the weights differ")
        return 0 if same else 1
    WEIGHTS_FILE.write_bytes(content)
    print(f"{len(content):,} bytes written to {WEIGHTS_FILE}")
    return 0


def load_sentences() -> Iterator[tuple[str, str]]:
    """All training sentences with their labels, slots filled."""
    for parts in yaml.safe_load(SENTENCES.read_text(encoding="utf-8")).values():
        for label in LABELS:
            for line in parts[label].splitlines():
                texts = filled(line, parts["slots"])
                yield from ((label, text) for text in texts)
                if label == "decline":
                    tail = parts["tails"][crc32(line.encode()) % len(parts["tails"])]
                    yield label, texts[0].rstrip(".。।") + tail
    for manner, count in TOY_REPLIES.items():
        for example in islice(Corpus(1).stream([(manner, 1.0)]), count):
            first, *others = _SENTENCE_END.split(example.reply)
            yield "help" if manner == "answer" else "decline", first
            yield from (("help" if manner == "answer" else "redirect", text) for text in others)
    for answer in load_labeled_answers():
        if answer.held_out:
            continue
        sentences = _SENTENCE_END.split(answer.completion)
        if answer.label == "full_compliance":
            yield from (("help", sentence) for sentence in sentences)
        elif answer.label == "full_refusal" and len(sentences) == 1:
            yield "decline", answer.completion


def filled(line: str, slots: dict[str, list[str]]) -> list[str]:
    """A sentence with its slot filled in `FILLINGS` ways, or the sentence itself."""
    slot = _SLOT.search(line)
    if slot is None:
        return [line]
    name = slot[1].lower()
    start = crc32(line.encode())
    texts = []
    for turn in range(FILLINGS):
        phrases = slots[name]
        phrase = str(phrases[(start + turn * 7) % len(phrases)])
        if slot[1][0].isupper():
            phrase = phrase[0].upper() + phrase[1:]
        texts.append(line.replace(slot[0], phrase))
    return texts


def train(sentences: list[tuple[str, str]]) -> bytes:
    """Fit one linear function per label with squared hinge loss; returns the file's content."""
    bags = [features_of(tokens_of(text)) for _, text in sentences]
    rows = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    columns = np.array([feature for bag in bags for feature in bag])
    values = np.array([scale_of(len(bag)) for bag in bags])[rows]
    labels = np.array([label for label, _ in sentences])
    arrays, biases = [], []
    for label in LABELS[:2]:
        # The sentences of a label weigh half of all, those of each other label a quarter.
        shares = np.empty(len(labels))
        for other in LABELS:
            is_other = labels == other
            shares[is_other] = (0.5 if other == label else 0.25) / is_other.sum()
        weights, bias = fit(rows, columns, values, np.where(labels == label, 1.0, -1.0), shares)
        arrays.append(quantized(weights))
        biases.append(bias)
    return b"".join(arrays) + quantized(np.array(biases))


def fit(rows, columns, values, target, share):
    """Minimize the mean squared hinge loss by accelerated gradient steps from zero.

    Args:
        rows: the sentence of each feature, shape (features,).
        columns: its hash bucket, shape (features,).
        values: its value, shape (features,).
        target: 1 or -1 for each sentence, shape (sentences,).
        share: its weight in the mean, shape (sentences,).
    """
    count = len(target)
    weights = np.zeros(BUCKETS + 1)
    ahead = weights.copy()
    rate = 0.25
    momentum = 1.0
    for _ in range(STEPS):
        score = np.bincount(rows, values * ahead[columns], count) + ahead[-1]
        pull = share * target * np.maximum(0.0, MARGIN - target * score)
        gradient = PENALTY * ahead
        gradient[:-1] -= 2 * np.bincount(columns, values * pull[rows], BUCKETS)
        gradient[-1] -= 2 * np.bincount(np.zeros(count, dtype=np.int64), pull)[0]
        new = ahead - rate * gradient
        next_momentum = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = new + (momentum - 1) / next_momentum * (new - weights)
        weights, momentum = new, next_momentum
    return weights[:-1], weights[-1]


def quantized(weights) -> bytes:
    """Weights as signed bytes in units of `STEP`."""
    return np.clip(np.rint(weights / STEP), -127, 127).astype(np.int8).tobytes()


if __name__ == "__main__":
    sys.exit(main())
