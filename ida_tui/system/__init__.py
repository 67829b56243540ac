"""Host and process memory, measured without using the device."""
