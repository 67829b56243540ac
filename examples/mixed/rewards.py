"""Computed axes that a judge need not be asked about."""


def brevity(completion):
    """1 up to 40 words, falling to 0 at 80 words."""
    words = len(completion.split())
    return min(1.0, max(0.0, (80 - words) / 40))


def names_topic(completion, topic):
    """1 if the answer names what the question is about, else 0."""
    return float(topic.lower() in completion.lower())
