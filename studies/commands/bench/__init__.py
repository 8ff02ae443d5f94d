"""`bench`: speed and cost of reducers on one backbone, printed as lines or as one JSON document, kept as records."""

from studies.commands.bench.asked import Bench
from studies.commands.bench.compared import compare, compared_lines
from studies.commands.bench.printed import check_lines, lines
from studies.commands.bench.timed import run, self_checks

__all__ = ["Bench", "check_lines", "compare", "compared_lines", "lines", "run", "self_checks"]
