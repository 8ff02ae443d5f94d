"""Time and memory of the whole report of 10,010 records in a fresh process, imports and page included: at most 20 s and
2 GiB are asked for.

    python tests/results/pages/bench_report.py [--keep DIR]

1 dense model and 50 methods at 20 budgets, 10 seeds, 2,250 test items each with their confidences, as runs of
classification write them: 24,500 pairs of methods.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from synthetic_records import write_study  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="write the study here, or reuse the one that is there")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        study = keep or Path(temporary) / "study"
        if not study.exists():
            methods = ("none", *(f"method{i:02d}" for i in range(50)))
            budgets = tuple(round(0.98 - 0.03 * i, 2) for i in range(20))
            write_study(study, methods=methods, budgets=budgets, seeds=10, confident=True)
        num_records = sum(1 for _ in (study / "runs").iterdir())
        code = "import pathlib, sys; from results.pages.report import build; "
        code += "from studies.commands.records import page_of; build([pathlib.Path(sys.argv[1])], page=page_of())"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(study)], check=True, cwd=ROOT)
        wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        print(f"{num_records:,} records: {wall:.1f} s, {cpu:.1f} s of processor time, {memory:,.0f} MiB")


if __name__ == "__main__":
    main()
