"""Runs side by side: read (`reading`), and put into words that the command and the app share (`words`)."""
