"""Runs on other machines: their address, a connection with the user's `ssh`, and a local copy to read."""
