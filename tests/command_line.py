"""The command line in a process of its own, and options that make a run take seconds."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ("--set", "epochs=1", "--set", "batch_size=449")

# Imports are most of what a short command takes: its process is forked from one that has made them.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["cli", "studies.runs.run", "studies.measure.bench", "studies.tasks.detection", "results.pages.report",
     "results.figures.plots"]
)  # fmt: skip


def study(*args, timeout=300, **environment):
    """The finished process of `cropr-study ARGS`. Keywords are environment variables: with any of them it starts from
    nothing, as some are read when modules are imported."""
    words = [*map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "cli", *words]
    if environment:
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        process = FORKED.Process(target=_call, args=(words, env, files))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, process.exitcode, *(file.read_text() for file in files))


def _call(words, env, files):
    """In a fresh process: what `python -m cli` does."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = ["cropr-study", *words]
    import cli

    cli.main()
