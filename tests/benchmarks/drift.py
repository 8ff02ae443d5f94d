"""Has the speed of this repository moved? A short measurement against the stored one of the same kind of machine.

    python tests/benchmarks/drift.py           about a minute: which speedups over the dense model moved
    python tests/benchmarks/drift.py --keep    two minutes of an idle machine, from a clean commit: store them

Only ratios of the same rounds are compared, never times: a session's clock and neighbours cancel in them. A kind of
machine is its CPU's name, the vector extension that torch computes with, and its threads. It reports: exit code 0
whatever it finds, 2 where --keep would replace a baseline or the checkout is changed.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

BASELINES = ROOT / "docs" / "records" / "speed" / "baseline"
BACKBONE, BATCH_SIZES = "vit_small_patch16_224", "1,16"
ROUNDS, KEPT_ROUNDS = 6, 20  # of fewer than 6 there is no interval


def kind() -> str:
    """Of this machine, as a folder's name: amd-epyc-avx512-2-threads."""
    import torch

    from studies.measure.clock import device_name

    count = torch.get_num_threads()
    parts = (device_name("cpu"), torch.backends.cpu.get_cpu_capability(), f"{count} thread{'s' * (count > 1)}")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def measure(out: Path, rounds: int, backbone: str = BACKBONE, batch_sizes: str = BATCH_SIZES) -> None:
    """Dense and the five at half of the MACs: the records of `bench --out`."""
    from studies.commands.bench import Bench, run

    options = Bench(backbone=backbone, batch_sizes=batch_sizes, budgets="0.5", rounds=rounds, device="cpu", out=out)
    run(options, lambda text: None if "round" in text else print(text, file=sys.stderr, flush=True))


def report(fresh: Path, baseline: Path) -> Iterator[str]:
    """Of every speedup that both have: what it is over what it was, and of which the interval excludes 1."""
    from studies.commands.bench import compare

    found = compare(fresh, baseline)
    yield f"speedups over dense, now / baseline ({found['b']['commit']}, torch {found['b']['torch']}); median [95 %]"
    moved, told, untold = [], 0, 0
    for setting in found["settings"]:
        where = f"{setting['backbone']}, {setting['img_size']} px, batch {setting['batch_size'][0]}"
        if setting["noisy"]:
            yield f"{where}: a self-check found the machine too noisy to tell"
        for row in setting["variants"]:
            if (ratio := row["speedup"]) is None:
                continue
            told, untold = told + (not setting["noisy"]), untold + setting["noisy"]
            ends = "no interval" if ratio["low"] is None else f"{ratio['low']:.3f}, {ratio['high']:.3f}"
            yield f"{where}, {row['variant']}: {ratio['median']:.3f} [{ends}] {ratio['verdict']}"
            if ratio["verdict"] in ("faster", "slower"):
                moved.append(f"{row['variant']} at batch {setting['batch_size'][0]} is {ratio['verdict']}")
    rest = f"; of {untold} nothing can be said" if untold else ""
    yield (f"{len(moved)} of {told} moved: {', '.join(moved)}" if moved else f"none of {told} moved") + rest
    yield "of 20 that stay, one seems to move by chance; processes differ by more than the rounds of one tell"


def missing(name: str, baselines: Path) -> str:
    kinds = ", ".join(sorted(path.name for path in baselines.glob("*") if path.is_dir())) or "none"
    return (
        f"no baseline of {name} (there are: {kinds}), so that nothing can be said to have moved; on this machine, idle "
        "and from a clean commit, `python tests/benchmarks/drift.py --keep` stores one in two minutes"
    )


def keep(baseline: Path) -> str | None:
    """Stores one; or why not."""
    from studies.runs.provenance import now, provenance

    if baseline.exists():
        return f"{baseline} is there already; remove it first"
    if provenance("cpu", dtype="float32", seeds={}, fingerprint="none", started=now())["dirty"]:
        return "the checkout differs from its commit; a baseline is of a clean one"
    measure(baseline, KEPT_ROUNDS)
    return None


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Has the speed of this repository moved?")
    parser.add_argument("--keep", action="store_true", help="store the baseline of this kind of machine")
    parser.add_argument("--baselines", type=Path, default=BASELINES, help="where they are stored")
    options = parser.parse_args(args)
    name = kind()
    baseline = options.baselines / name
    if options.keep:
        if refused := keep(baseline):
            print(f"error: {refused}", file=sys.stderr)
            return 2
        print(f"kept {baseline}")
        return 0
    if not baseline.exists():
        print(missing(name, options.baselines))
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        measure(Path(fresh), ROUNDS)
        print("\n".join(report(Path(fresh), baseline)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
