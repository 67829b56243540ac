"""Output without the app: lines for people, or JSON for programs."""
