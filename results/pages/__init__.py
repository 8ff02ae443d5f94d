"""Tables, notes and the report. May import every other room of `results`."""
