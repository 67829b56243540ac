"""The panes of the run screen, one a file: each turns the run's state into a few lines."""
