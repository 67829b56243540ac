"""Alert rules that detect problems in a training run, with advice for each.

A rule is a pure function of the state of a run after a step (`state.RunState`) and of its profile, so the
same run raises the same alerts live, resumed and replayed. The profile sets the thresholds
(`config.schema.AlertsConfig`).
"""
