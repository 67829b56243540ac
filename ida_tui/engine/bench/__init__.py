"""Benchmark of one GRPO step with three trainers: TRL with defaults, TRL tuned by hand, and ida-tui."""
