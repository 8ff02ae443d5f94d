"""A quick study that is killed again and again, against one that was left alone.

    python tests/kill_study.py [KILLS] [SEED]

Each kill is by SIGKILL, SIGTERM or SIGINT, of the command alone (its workers live on) or of all its processes, at a
random moment of what the whole takes, so that backbone, runs, timing and report are all hit; the same command goes on.
What ends in the end must be the same runs with the same weights and predictions.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
COMMAND = [
    sys.executable, "-m", "cli", "run", "--reducers", "none,random", "--quick", "--set", "epochs=1",
    "--set", "batch_size=449",
]  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(out: Path) -> subprocess.Popen:
    """Its stderr is a file beside `out`: workers that outlive the command would keep a pipe open."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(out.with_suffix(".log"), "w") as log:
        return subprocess.Popen(
            [*COMMAND, "--out", str(out)], cwd=ROOT, env=env, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip


def finished(out: Path) -> float:
    """Seconds of a study that is left alone."""
    begun = time.monotonic()
    process = start(out)
    process.wait(600)
    assert process.returncode == 0, out.with_suffix(".log").read_text()
    return time.monotonic() - begun


def kill(out: Path, after_s: float, how: signal.Signals, everything: bool) -> str | None:
    """Starts or continues the study, and ends it. -> what was hit, None: it had ended by itself"""
    process = start(out)
    try:
        process.wait(after_s)
        assert process.returncode == 0, out.with_suffix(".log").read_text()
        return None
    except subprocess.TimeoutExpired:
        pass
    if everything:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    process.wait(120)
    said = out.with_suffix(".log").read_text()
    assert "Traceback" not in said, said
    return f"{'all' if everything else 'the command'} by {how.name} after {after_s:.1f} s (exit {process.returncode})"


def content(out: Path) -> dict[str, Any]:
    """What must not depend on kills: by run what was learnt and predicted, and which files a study has."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("runs/*/result.json")):
        record = json.loads(path.read_text())
        kept = ("status", "variant", "metrics", "weight_digest", "train_loss", "validation", "num_items")
        found[path.parent.name] = {key: record[key] for key in kept}
        with np.load(path.parent / "predictions.npz") as arrays:
            found[path.parent.name]["predictions"] = {name: arrays[name].tolist() for name in sorted(arrays.files)}
    for path in sorted(out.glob("backbones/*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())["weight_digest"]
    found["report"] = sorted(path.name for path in (out / "report").iterdir())
    found["timings"] = [path.parent.name for path in sorted(out.glob("speed/*/result.json"))]
    return found


def survives(folder: Path, kills: int, seed: int) -> list[str]:
    """Raises AssertionError where a killed study ends otherwise than one left alone. -> what was hit"""
    rng = random.Random(seed)
    whole_s = finished(folder / "alone")
    hit: list[str] = []
    done = 0
    while len(hit) < kills:
        how, everything = SIGNALS[len(hit) % len(SIGNALS)], rng.random() < 0.5
        if found := kill(folder / "killed", rng.uniform(2, whole_s), how, everything):
            hit.append(found)
            continue
        os.rename(folder / "killed", folder / f"done-{done}")  # it was quicker than the kill: another one
        assert content(folder / f"done-{done}") == content(folder / "alone"), hit
        done += 1
    finished(folder / "killed")
    assert content(folder / "killed") == content(folder / "alone"), hit
    left = [*folder.glob("killed/**/.*.tmp")]
    assert not left, left
    return hit


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for all in the background
    with tempfile.TemporaryDirectory() as name:
        arguments = [int(text) for text in sys.argv[1:]]
        print("\n".join(survives(Path(name), *(arguments or [20]), *([0] if len(arguments) < 2 else []))))
