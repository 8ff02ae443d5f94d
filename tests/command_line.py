"""The command line in a process of its own, and options that make a run take seconds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ("--set", "epochs=1", "--set", "batch_size=449")


def study(*args, timeout=300, **environment):
    """The finished process of `cropr-study ARGS`; keywords are environment variables."""
    command = [sys.executable, "-m", "cli", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
