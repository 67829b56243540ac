"""A run without a screen: lines for people, or events as JSON lines for programs."""
