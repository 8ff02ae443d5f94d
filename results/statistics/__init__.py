"""Bootstrap, differences and curves, on data frames. May import `results.records`."""
