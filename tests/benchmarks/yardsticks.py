"""Speed of the five reducers against plain implementations of their equations, in the same interleaved rounds.

    python tests/benchmarks/yardsticks.py [--settings 224:1,224:16,512:1] [--rounds 12] [--out FILE.json]

ViT-S/16 with random weights, half of the MACs. At 512 px (1,024 patches) Cropr has 1,024 queries too. A ratio is the
time of the plain one over ours, by rounds: above 1 ours is faster; 95 % bootstrap interval of the median.
"""

import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.rounds import options, printed, ratio_of, said, timed  # noqa: E402

BACKBONE, BUDGET = "vit_small_patch16_224", 0.5
SPECS = ("none", "cropr", "random", "tome", "evit", "dynamicvit")
AT_1024 = (*SPECS, "cropr:queries=1024")
PLAIN = " (plain)"


@torch.inference_mode()
def record_of(img_size: int, batch_size: int, rounds: int, device: str, processor_time: bool) -> dict[str, Any]:
    """Samples of ours and of plain ones, and `yardsticks`: ratios by reducer."""
    from benchmarks.plain import plain

    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    vit = create_backbone(BACKBONE, img_size=img_size, pretrained=False).to(device)
    images = torch.randn(batch_size, 3, img_size, img_size, device=device)
    models: dict[str, Any] = {}
    for spec in AT_1024 if img_size == 512 else SPECS:
        model = build(vit, parse_one(spec), None if spec == "none" else BUDGET).model.to(device).eval()
        models |= {spec: model.fold(), spec + PLAIN: plain(model)}
    calls = {name: lambda model=model: model(images) for name, model in models.items()}
    record = timed(calls, rounds, device, processor_time)
    samples = record["samples_s"]
    ratios = {name: ratio_of(own, samples[name + PLAIN]) for name, own in samples.items() if name + PLAIN in samples}
    setting = {"backbone": BACKBONE, "budget": BUDGET, "img_size": img_size, "batch_size": batch_size}
    return setting | record | {"yardsticks": ratios}


def main() -> None:
    from results.records.files import write_json
    from studies.measure.clock import device_name
    from studies.runs.provenance import now, provenance

    parser = options("Speed of the five reducers against plain implementations of their equations.")
    parser.add_argument("--settings", default="224:1,224:16,512:1", help="image size:batch size, several by commas")
    args, started, records = parser.parse_args(), now(), []
    if args.threads:
        torch.set_num_threads(args.threads)
    for setting in args.settings.split(","):
        img_size, batch_size = map(int, setting.split(":"))
        record = record_of(img_size, batch_size, args.rounds, args.device, args.processor_time)
        records.append(record)
        print(f"{img_size} px, batch {batch_size}, {said(record, device_name(args.device))}; plain over ours:")
        printed(record["yardsticks"])
    if args.out:
        origin = provenance(args.device, dtype="float32", seeds={}, fingerprint="none", started=started)
        write_json(Path(args.out), {"records": records, "provenance": origin})


if __name__ == "__main__":
    main()
