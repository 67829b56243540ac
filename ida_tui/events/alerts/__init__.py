"""What can be wrong with a training while its reward looks well: rules, and what each asks to be changed.

A rule is a pure function of what is known of a run after a step (`state.RunState`) and of its profile: the
same run gives the same alerts live, resumed and replayed. Thresholds are the profile's
(`config.AlertsConfig`). What rules look at, and how often one speaks, is in `looks` and `due`; the rules are
in `signal` (does anything reach the weights?), `answers` (what has become of the completions?), `reward` (is
it the reward's own doing?) and `machine`.
"""
