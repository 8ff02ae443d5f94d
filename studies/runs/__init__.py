"""One run from its config to its record. May import every room but `launch`, `catalogue` and `commands`."""
