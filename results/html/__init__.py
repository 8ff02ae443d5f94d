"""The report as one HTML file that needs no network. May import figures, statistics and records."""
