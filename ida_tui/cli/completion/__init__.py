"""Completions for bash, zsh and fish: what could stand at the cursor, and the scripts that ask.

The scripts are a few lines each and ask `ida-tui __complete`, which answers from the parsers, the profiles
and the runs as they are now. A generated, static script (shtab) could not know those, and argcomplete wants
one parser for the whole line, which ours are not; so this is our own.
"""
