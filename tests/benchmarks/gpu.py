"""The tests marked gpu and the benchmark of a GPU, in two parts of 255 s at most: `make gpu` runs both.

    python tests/benchmarks/gpu.py [--part 1|2] [--out docs/records/gpu] [--dry-run]

Records lie in OUT/<device>/, one file a setting, each written as soon as it is there: to be kept as that device's
reference. Needs PyTorch, timm and pytest, not the project's environment. Exit code 2 without a GPU, 1 where a test or a
setting failed.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.gpu_plan import (  # noqa: E402
    LIMIT_S,
    PARTS,
    ROUNDS,
    SPECS,
    TESTS_S,
    Setting,
    lines,
    plan,
)  # fmt: skip

TESTS = "tests/cropr/test_on_gpu.py"
RESERVE_S = 5.0  # of a part, to end in


def main() -> int:
    parser = argparse.ArgumentParser(description="The tests marked gpu and the benchmark of a GPU, in two parts.")
    parser.add_argument("--part", type=int, choices=PARTS, help="one of the two; by default both, one after the other")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "records" / "gpu")
    parser.add_argument("--dry-run", action="store_true", help="print the plan")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process that may be cut off
    args = parser.parse_args()
    if args.dry_run:
        print("\n".join(lines()))
        return 0
    import torch

    if not torch.cuda.is_available():
        print(f"no GPU here that torch {torch.__version__} can use; --dry-run prints the plan", file=sys.stderr)
        return 2
    if args.inside:
        return run_part(args.part, args.out)
    return max(limited(part, args.out) for part in ([args.part] if args.part else PARTS))


def limited(part: int, out: Path) -> int:
    """A part in a process of its own, which is ended at the limit."""
    command = [sys.executable, __file__, "--inside", "--part", str(part), "--out", str(out)]
    try:
        return min(1, subprocess.run(command, timeout=LIMIT_S, check=False).returncode)
    except subprocess.TimeoutExpired:
        print(f"part {part} was cut off at {LIMIT_S:.0f} s; what it had measured is kept", flush=True)
        return 1


def run_part(part: int, out: Path) -> int:
    import torch

    begun, worst = time.monotonic(), 0
    if part == 1:
        worst = run_tests()
    folder = out / torch.cuda.get_device_name().lower().replace(" ", "-")
    for setting in plan(part):
        left = LIMIT_S - RESERVE_S - (time.monotonic() - begun)
        if setting.estimate_s > left:
            print(f"{setting.name}: left out, {left:.0f} s are left and it takes about {setting.estimate_s:.0f}")
            continue
        start = time.monotonic()
        try:
            record(setting, folder)
        except Exception as error:  # the others are measured all the same
            print(f"{setting.name}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
            worst = 1
        else:
            print(f"{setting.name}: {time.monotonic() - start:.0f} s of {setting.estimate_s:.0f}", flush=True)
    return worst


def run_tests() -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", TESTS]
    try:
        return min(1, subprocess.run(command, cwd=ROOT, timeout=TESTS_S, check=False).returncode)
    except subprocess.TimeoutExpired:
        print(f"the tests did not end in {TESTS_S:.0f} s", flush=True)
        return 1


def record(setting: Setting, folder: Path, device: str = "cuda", rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure and keep one setting."""
    import torch

    from results.records.files import write_json
    from studies.runs.provenance import now, provenance

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.precision == "tf32"
    started, dtype = now(), "bfloat16" if setting.precision == "bfloat16" else "float32"
    found = training(setting, device, rounds) if setting.kind == "training" else speed(setting, device, dtype, rounds)
    origin = provenance(device, dtype=dtype, seeds={}, fingerprint="none", started=started)
    kept = {"setting": asdict(setting), **found, "provenance": origin}
    write_json(folder / f"{setting.name}.json", kept)
    return kept


def speed(setting: Setting, device: str, dtype: str, rounds: int) -> dict[str, Any]:
    from cropr.macs import count, dense_macs
    from studies.measure.throughput import measure
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    vit = backbone(setting.backbone, setting.img_size)
    models, costs = {"none": build(vit, parse_one("none")).model.eval()}, {"none": 1.0}
    wanted = [(spec, budget) for budget in setting.budgets for spec in SPECS]
    wanted += [("cropr:queries=1024", 0.5)] if setting.kind == "queries" else []
    for spec, budget in wanted:
        model = build(vit, parse_one(spec), budget).model.fold().eval()
        models[f"{spec}@{budget:g}"] = model
        costs[f"{spec}@{budget:g}"] = dense_macs(vit) / count(model).total
    measured = measure(
        models, dense="none", img_size=setting.img_size, batch_size=setting.batch_size, device=device, dtype=dtype,
        rounds=rounds, min_seconds=0.03, latency=False, mode=setting.mode,
    )  # fmt: skip
    for row in measured["variants"]:
        row["mac_ratio"] = costs[row["variant"]]
    return measured


BACKBONES: dict[tuple[str, int], Any] = {}


def backbone(name: str, img_size: int) -> Any:
    """With random weights; one at a time is kept, for the settings that follow each other."""
    from studies.models.backbones import create_backbone

    if (name, img_size) not in BACKBONES:
        BACKBONES.clear()
        BACKBONES[name, img_size] = create_backbone(name, img_size=img_size, pretrained=False)
    return BACKBONES[name, img_size]


def training(setting: Setting, device: str, rounds: int) -> dict[str, Any]:
    import torch
    from benchmarks.rounds import ratio_of, timed
    from benchmarks.training_step import SPECS as STEPS
    from benchmarks.training_step import Labelled, stepper, teacher

    images = torch.randn(setting.batch_size, 3, setting.img_size, setting.img_size, device=device)
    batch = Labelled(images, torch.randint(0, 10, (setting.batch_size,), device=device))
    dtype = torch.bfloat16 if setting.precision == "bfloat16" else None
    steps = {spec: stepper(spec, 0.5, batch, device, dtype, setting.backbone) for spec in STEPS}
    record = timed(steps | {"teacher": teacher(batch, device, setting.backbone)}, rounds, device)
    samples = record["samples_s"]
    over_dense = {name: ratio_of(samples["none"], own) for name, own in samples.items()}
    return {"budget": 0.5, **record, "over_dense": over_dense}


if __name__ == "__main__":
    sys.exit(main())
