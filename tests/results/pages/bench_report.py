"""Time of the whole report of 10,000 records in a fresh process, imports included: issue 2 asks for less than 15 s.

    python tests/results/pages/bench_report.py [--keep DIR]

1 dense model and 50 methods at 20 budgets, 10 seeds, 2,250 test items each: 24,500 pairs of methods.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from synthetic_records import write_study  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="write the study here, or reuse the one that is there")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        study = keep or Path(temporary) / "study"
        if not study.exists():
            methods = ("none", *(f"method{i:02d}" for i in range(50)))
            write_study(study, methods=methods, budgets=tuple(round(0.98 - 0.03 * i, 2) for i in range(20)), seeds=10)
        num_records = sum(1 for _ in (study / "runs").iterdir())
        code = "import pathlib, sys; from results.pages.report import build; build([pathlib.Path(sys.argv[1])])"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(study)], check=True, cwd=ROOT)
        print(f"{num_records:,} records: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
