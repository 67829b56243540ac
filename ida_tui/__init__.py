"""Reinforcement fine-tuning you can watch: a GRPO workbench for the terminal."""

__version__ = "0.1.0"
