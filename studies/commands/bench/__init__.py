"""`bench`: speed and cost of reducers on one backbone, printed as lines or as one JSON document, kept as records."""

from studies.commands.bench.asked import Bench
from studies.commands.bench.printed import lines
from studies.commands.bench.timed import run

__all__ = ["Bench", "lines", "run"]
