"""What Slurm and the records cost beside the work itself, on a cluster started here: submission of 1,000 runs, time per
job and per run that does nothing, `status` and `report` of 10,000 records.

    python tests/slurm/bench_submit.py [--runs 1000] [--runs-per-job 50]

A run that does nothing is one that turns out to be finished when its job comes to it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from slurm_cluster import Cluster, wait_until  # noqa: E402
from synthetic_records import run_record, write_study  # noqa: E402

from results.records.store import write_json  # noqa: E402
from studies.config import RunConfig  # noqa: E402
from studies.launch import (
    squeue,
    submissions,  # noqa: E402
)
from studies.launch.profile import resources  # noqa: E402
from studies.launch.slurm import submit  # noqa: E402

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--runs-per-job", type=int, default=50)
    args = parser.parse_args()
    with Cluster.running(accounting=False) as cluster:
        submission(cluster, args.runs, args.runs_per_job)
    with tempfile.TemporaryDirectory() as temporary:
        records(Path(temporary) / "study")


def submission(cluster: Cluster, num_runs: int, per_job: int) -> None:
    one = RunConfig("pareto", "classification", "scenes", "scenes_vit", "none", 1, None, 0, None)
    configs = [replace(one, seed=seed) for seed in range(num_runs)]
    for size in (1, per_job):
        out = cluster.directory()
        out.mkdir()
        wanted = resources(None, {"runs_per_job": size, "cpus_per_task": 1, "additional_parameters": {"hold": True}})
        start = time.perf_counter()
        jobs = submit(configs, out, wanted).jobs["runs"]
        print(f"submission of {num_runs} runs as {jobs} jobs: {time.perf_counter() - start:.1f} s", flush=True)
        items = submissions.newest(submissions.read(out))
        if size == 1:
            squeue.cancel({job.partition("_")[0] for job, _ in items.values()})
    for config in configs:
        record = run_record(config.id, "none", None, config.seed, 0.5, 1)
        write_json(out / "runs" / config.id / "result.json", record)
    arrays = {job.partition("_")[0] for item, (job, _) in items.items() if item.startswith("runs/")}
    squeue.cancel(job for item, (job, _) in items.items() if item.startswith("speed/"))
    start = time.perf_counter()
    cluster.call("scontrol", "release", ",".join(arrays))
    wait_until(lambda: not cluster.call("squeue", "-h"), "jobs end", timeout_s=3600)
    wall = time.perf_counter() - start
    logs = [path for path in out.glob("slurm/*-runs/*_0_log.out") if "completed" in path.read_text()]
    assert len(logs) == jobs, f"{len(logs)} of {jobs} jobs completed"
    print(f"{num_runs} finished runs in {jobs} jobs: {wall:.1f} s, {wall / jobs:.2f} s a job at 8 jobs at a time")


def records(study: Path) -> None:
    methods = ("none", *(f"method{i:02d}" for i in range(50)))
    write_study(study, methods=methods, budgets=tuple(round(0.98 - 0.03 * i, 2) for i in range(20)), seeds=10)
    number = sum(1 for _ in (study / "runs").iterdir())
    for command in ("status", "report"):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cli", command, study], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        print(f"{command} of {number:,} records: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
