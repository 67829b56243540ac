"""A run as one page: what it learned, and how that is known."""
