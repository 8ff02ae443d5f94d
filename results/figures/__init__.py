"""Plots and pictures. May import `results.statistics` and `results.records`."""
