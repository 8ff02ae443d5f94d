"""How the items of a run make its metric. Imports nothing of `results.statistics` but bootstrap."""
