"""Puts this folder on the path, so that tests and bench_report.py share synthetic_records.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
