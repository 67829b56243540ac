"""Analysis of runs: comparisons, evaluations, reports, model cards, rescoring and rejudging."""
