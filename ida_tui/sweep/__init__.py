"""Sweeps: one profile with several values, each combination trained as an ordinary run in its own process.

The combinations are those of a grid (`grid`), or an Optuna study suggests them one by one (`study`). The runs
are trained on this machine (`processes`), each on a GPU of its own (`gpus`), or on a Ray cluster
(`ray_cluster`).

The result of a combination is read from its run (`status`), so the table of a sweep needs neither Optuna nor
Ray, and a lost study is rebuilt from the runs.
"""
