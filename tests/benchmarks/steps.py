"""Where the time of a pass goes, block by block, beside what each step should cost.

    python tests/benchmarks/steps.py [--settings 224:1,224:16] [--rounds 20] [--out FILE.json]

ViT-S/16 with random weights, half of the MACs. "linear": the linear layers of the blocks; "attention": what attention
takes beside its own; "reducer": all that a reducer does; the others are norms, GELU, residuals, embedding and head. A
reducer should cost its MACs, at the rate of the dense model's linear layers, and its bytes: every token read once, what
stays read and written, at the rate of a copy. Seconds are those between hooks before and behind each module.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.rounds import options, said  # noqa: E402

BACKBONE, BUDGET = "vit_small_patch16_224", 0.5
SPECS = ("none", "random", "cropr", "evit", "dynamicvit", "tome")
COPIED = 2**26  # bytes; more than any cache holds


class Watched:
    """Seconds that the parts of a model took in one pass: (kind, block) -> seconds."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.took: dict[tuple[str, int], float] = defaultdict(float)
        self.began: dict[nn.Module, float] = {}
        for i, block in enumerate(model.vit.blocks):
            self.watch("attention", i, block.attn)
            for kind, part in (("linear of attention", block.attn), ("linear of mlp", block.mlp)):
                for module in part.modules():
                    if isinstance(module, nn.Linear):
                        self.watch(kind, i, module)
        for i, reducer in model.reducers.items():
            self.watch("reducer", int(i), reducer)

    def watch(self, kind: str, block: int, module: nn.Module) -> None:
        def before(module: nn.Module, _: Any) -> None:
            self.began[module] = time.perf_counter()

        def behind(module: nn.Module, *_: Any) -> None:
            self.took[kind, block] += time.perf_counter() - self.began[module]

        module.register_forward_pre_hook(before)
        module.register_forward_hook(behind)

    def seconds(self, images: torch.Tensor) -> dict[tuple[str, int], float]:
        self.took.clear()
        start = time.perf_counter()
        self.model(images)
        return {**self.took, ("pass", -1): time.perf_counter() - start}


def blocks_of(model: Any, took: list[dict[tuple[str, int], float]], batch_size: int) -> list[dict[str, float]]:
    """By block: tokens, what it should cost, and the median of what it did, in ms."""
    vit, rows = model.vit, []
    width, prefix = vit.embed_dim, vit.num_prefix_tokens
    for i, (attended, mlp, behind) in enumerate(model.token_counts()):
        ms = {kind: 1e3 * median(one.get((kind, i), 0.0) for one in took)
              for kind in ("attention", "linear of attention", "linear of mlp", "reducer")}  # fmt: skip
        row = {
            "tokens": attended,
            "linear_gmac": 1e-9 * batch_size * (4 * attended + 8 * mlp) * width**2,
            "attention_gmac": 1e-9 * batch_size * 2 * attended**2 * width,
            "linear_ms": ms["linear of attention"] + ms["linear of mlp"],
            "attention_ms": ms["attention"] - ms["linear of attention"],
        }
        if str(i) in model.reducers:
            reducer = model.reducers[str(i)]
            macs = reducer.macs(attended - prefix, prefix, width)
            row |= {
                "reducer_gmac": 1e-9 * batch_size * macs,
                "reducer_mb": 1e-6 * 4 * batch_size * (attended + 2 * behind) * width,
                "reducer_ms": ms["reducer"],
            }
        rows.append(row)
    return rows


def gb_per_s() -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    source, target, took = torch.randn(COPIED // 4), torch.empty(COPIED // 4), []
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        took.append(time.perf_counter() - start)
    return 2e-9 * COPIED / median(took)


@torch.inference_mode()
def record_of(img_size: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Of every variant, in interleaved rounds."""
    from studies.measure.clock import OtherLoad
    from studies.measure.throughput import round_orders
    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    images = torch.randn(batch_size, 3, img_size, img_size)
    watched = {}
    for spec in SPECS:
        vit = create_backbone(BACKBONE, img_size=img_size, pretrained=False)
        watched[spec] = Watched(build(vit, parse_one(spec), None if spec == "none" else BUDGET).model.fold().eval())
    found: dict[str, list[dict[tuple[str, int], float]]] = {spec: [] for spec in SPECS}
    for one in watched.values():
        one.seconds(images)
    load = OtherLoad()
    for order in round_orders(len(SPECS), rounds):
        for i in order:
            found[SPECS[i]].append(watched[SPECS[i]].seconds(images))
    variants = {
        spec: {
            "pass_ms": 1e3 * median(one["pass", -1] for one in found[spec]),
            "blocks": blocks_of(watched[spec].model, found[spec], batch_size),
        }
        for spec in SPECS
    }
    return {
        "backbone": BACKBONE, "budget": BUDGET, "img_size": img_size, "batch_size": batch_size, "rounds": rounds,
        "clock": "wall", "load_of_others": load.cores(), "num_threads": torch.get_num_threads(), "gb_per_s": gb_per_s(),
        "variants": variants,
    }  # fmt: skip


def main() -> None:
    from results.records.files import write_json
    from studies.docs.steps import steps_table
    from studies.measure.clock import device_name
    from studies.runs.provenance import now, provenance

    parser = options("Where the time of a pass goes.", rounds=20)
    parser.add_argument("--settings", default="224:1,224:16", help="IMG_SIZE:BATCH_SIZE,...")
    args, started = parser.parse_args(), now()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    records = []
    for setting in args.settings.split(","):
        img_size, batch_size = map(int, setting.split(":"))
        records.append(record_of(img_size, batch_size, args.rounds))
        print(f"{img_size} px, batch {batch_size}, {said(records[-1], device_name('cpu'))}")
        print("\n".join(steps_table(records[-1])), flush=True)
    if args.out:
        origin = provenance("cpu", dtype="float32", seeds={}, fingerprint="none", started=started)
        write_json(Path(args.out), {"settings": records, "provenance": origin})


if __name__ == "__main__":
    main()
