"""Sweeps: one profile with several values, each combination an ordinary run in a process of its own.

Optuna is the queue (`queue`): which combinations were given out, and what each was worth. Ray Tune is the
other well-kept library for this; it was not chosen because it brings a runtime of several processes, an
object store and a dashboard that listens on a port, all for one machine whose runs are processes already.
Optuna is a library in this process; its study is one SQLite file in the sweep's folder, which survives
`kill -9` and opens in optuna-dashboard.

What became of a combination is not asked of Optuna but read from its run (`reading`): so a table can be
made of any sweep, also without Optuna, and a study that is lost is made anew from the runs.
"""
