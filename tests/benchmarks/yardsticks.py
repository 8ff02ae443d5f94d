"""Speed of the five reducers against plain implementations of their equations, in the same interleaved rounds.

    python tests/benchmarks/yardsticks.py [--settings 224:1,224:16,512:1] [--rounds 15] [--out FILE.json]

ViT-S/16 with random weights, half of the MACs. At 512 px (1,024 patches) Cropr has 1,024 queries too. A ratio is the
time of the plain one over ours, by rounds: above 1 ours is faster; 95 % bootstrap interval of the median.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BACKBONE, BUDGET = "vit_small_patch16_224", 0.5
SPECS = ("cropr", "random", "tome", "evit", "dynamicvit")
AT_1024 = (*SPECS, "cropr:queries=1024")
PLAIN = " (plain)"


def ratio_of(ours: Sequence[float], theirs: Sequence[float], resamples: int = 2000) -> dict[str, float]:
    """Median of theirs / ours, round by round, and its 95 % interval."""
    ratios = np.asarray(theirs) / np.asarray(ours)
    drawn = np.random.default_rng(0).integers(len(ratios), size=(resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def timed(img_size: int, batch_size: int, rounds: int, dtype: str = "float32", device: str = "cpu") -> dict[str, Any]:
    """The speed record of ours and plain ones, with `yardsticks`: ratios by reducer."""
    from benchmarks.plain import plain

    from studies.measure.throughput import measure
    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    vit = create_backbone(BACKBONE, img_size=img_size, pretrained=False)
    models: dict[str, Any] = {"none": build(vit, parse_one("none")).model}
    for spec in AT_1024 if img_size == 512 else SPECS:
        model = build(vit, parse_one(spec), BUDGET).model.eval()
        models |= {spec: model.fold(), spec + PLAIN: plain(model)}
    record = measure(
        models, dense="none", img_size=img_size, batch_size=batch_size, device=device, dtype=dtype, rounds=rounds,
        latency=False,
    )  # fmt: skip
    samples = {row["variant"]: row["samples_s"] for row in record["variants"]}
    pairs = [name for name in samples if name + PLAIN in samples]
    ratios = {name: ratio_of(samples[name], samples[name + PLAIN]) for name in pairs}
    return record | {"backbone": BACKBONE, "budget": BUDGET, "yardsticks": ratios}


def main() -> None:
    from results.records.files import write_json
    from studies.runs.provenance import now, provenance

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="224:1,224:16,512:1", help="image size:batch size, several by commas")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="keep the records in this file")
    args = parser.parse_args()
    started, records = now(), []
    for setting in args.settings.split(","):
        img_size, batch_size = map(int, setting.split(":"))
        record = timed(img_size, batch_size, args.rounds, args.dtype, args.device)
        records.append(record)
        others = "unknown" if record["load_of_others"] is None else f"{record['load_of_others']:.2f} cores"
        print(
            f"{img_size} px, batch {batch_size}, {args.dtype}, {record['device_name']}, "
            f"{record['num_threads']} threads, {args.rounds} rounds, load of others {others}; ours over plain:"
        )
        for name, ratio in record["yardsticks"].items():
            print(f"  {name:<20} {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]", flush=True)
    if args.out:
        origin = provenance(args.device, dtype=args.dtype, seeds={}, fingerprint="none", started=started)
        write_json(args.out, {"records": records, "provenance": origin})


if __name__ == "__main__":
    main()
