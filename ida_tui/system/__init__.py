"""Host and process memory, read without touching the device."""
