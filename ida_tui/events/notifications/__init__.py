"""Messages about a run: on an alert, a pause and the end, to a webhook, the desktop or a command."""
