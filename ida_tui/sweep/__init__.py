"""Sweeps: one profile with several values, each combination trained as an ordinary run in its own process.

Optuna serves as the queue (`study`): it records which combinations were started and the reward of each. Its
study is one SQLite file in the sweep directory, which survives `kill -9` and opens in optuna-dashboard. Ray
Tune was not chosen because it brings a multi-process runtime, an object store and a dashboard server, and a
sweep here only starts processes on one machine.

The result of a combination is read from its run (`status`), not from Optuna. So the table of a sweep can be
printed without Optuna, and a lost study is rebuilt from the runs.
"""
