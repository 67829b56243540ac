"""One GRPO step, three ways, on this machine: TRL as it comes, TRL tuned by hand, and ours."""
