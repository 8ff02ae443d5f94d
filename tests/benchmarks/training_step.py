"""Time of a training step of every reducer over that of the dense model, in interleaved rounds, and how far the fused
attention under a mask is from the exact one, block by block.

    python tests/benchmarks/training_step.py [--batch-size 16] [--rounds 10] [--budget 0.5] [--out FILE.json]

A step: forward, loss, backward, AdamW, on random images; ViT-S/16 at 224 px with random weights. "teacher" is the
forward pass of the dense model without gradients, which a method with a teacher makes in every step.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BACKBONE = "vit_small_patch16_224"
SPECS = ("none", "cropr", "random", "tome", "evit", "dynamicvit", "dynamicvit:attention=sdpa")


class Labelled(NamedTuple):
    """A batch as an objective reads it."""

    images: Tensor
    target: Tensor
    patch_target: Tensor | None = None


def stepper(
    spec: str, budget: float, batch: Labelled, device: str, dtype: torch.dtype | None = None, backbone: str = BACKBONE
) -> Callable[[], None]:
    """A function that makes one training step; `dtype`: of autocast."""
    from cropr.method import Training
    from cropr.objective import CrossEntropy, weighted_loss
    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    method, size = parse_one(spec), batch.images.shape[-1]
    create = lambda: create_backbone(backbone, img_size=size, pretrained=False).to(device)  # noqa: E731
    built = build(create(), method, budget if method.takes_budget else None)
    model = built.model.to(device).train()
    objective = built.method.objective(Training(model, CrossEntropy(), create))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        objective.before_step(model, 1.0)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            loss = weighted_loss(*objective(model, batch))
        loss.backward()
        optimizer.step()

    return step


def teacher(batch: Labelled, device: str, backbone: str = BACKBONE) -> Callable[[], None]:
    from studies.models.backbones import create_backbone

    model = create_backbone(backbone, img_size=batch.images.shape[-1], pretrained=False).to(device).eval()

    @torch.no_grad()
    def forward() -> None:
        model(batch.images)

    return forward


def timed(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each step in each round, in an order drawn anew."""
    from studies.measure.throughput import round_orders

    def seconds(step: Callable[[], None]) -> float:
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    names = list(steps)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        seconds(step)
        seconds(step)
    for order in round_orders(len(names), rounds):
        for i in order:
            samples[names[i]].append(seconds(steps[names[i]]))
    return samples


@torch.no_grad()
def deviations(batch: Labelled, budget: float, sharpness: float) -> list[float]:
    """Largest difference of patches that stay behind each block, fused from exact, over their standard deviation.
    `sharpness`: random queries and keys times this; as they are drawn they attend to all alike."""
    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    vit, outputs = create_backbone(BACKBONE, img_size=batch.images.shape[-1], pretrained=False).eval(), {}
    for block in vit.blocks:
        block.attn.qkv.weight[: 2 * vit.embed_dim] *= sharpness
    for kind in ("exact", "sdpa"):
        torch.manual_seed(0)
        model = build(vit, parse_one(f"dynamicvit:attention={kind}"), budget).model.eval()
        model.masked_eval, found = True, []
        handles = [block.register_forward_hook(lambda _, args, out, to=found: to.append(out)) for block in vit.blocks]
        keep = model.forward_features(batch.images).policy
        for handle in handles:
            handle.remove()
        outputs[kind] = found
    stays = torch.cat([keep.new_ones(len(keep), 1), keep], dim=1).bool()
    both = zip(outputs["exact"], outputs["sdpa"], strict=True)
    return [float((a - b)[stays].abs().max() / a.std()) for a, b in both]


def main() -> None:
    from benchmarks.yardsticks import ratio_of

    from results.records.files import write_json
    from studies.measure.clock import OtherLoad
    from studies.runs.provenance import now, provenance

    parser = argparse.ArgumentParser(description="Time of a training step over that of the dense model.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="keep the record in this file")
    args, started = parser.parse_args(), now()
    torch.manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=args.device)
    batch = Labelled(images, torch.randint(0, 10, (args.batch_size,), device=args.device))
    steps = {spec: stepper(spec, args.budget, batch, args.device) for spec in SPECS}
    load = OtherLoad()
    samples = timed(steps | {"teacher": teacher(batch, args.device)}, args.rounds, args.device)
    others = load.cores()
    record: dict[str, Any] = {
        "backbone": BACKBONE, "img_size": args.img_size, "batch_size": args.batch_size, "budget": args.budget,
        "rounds": args.rounds, "load_of_others": others, "samples_s": samples,
        "over_dense": {name: ratio_of(samples["none"], own) for name, own in samples.items()},
        "deviation_of_blocks": {
            f"queries and keys times {sharpness}": deviations(batch._replace(images=images[:4]), args.budget, sharpness)
            for sharpness in (1, 4)
        },
    }  # fmt: skip
    origin = provenance(args.device, dtype="float32", seeds={}, fingerprint="none", started=started)
    print(f"{origin['device_name']}, {origin['num_threads']} threads, batch {args.batch_size}, load of others {others}")
    for name, ratio in record["over_dense"].items():
        print(f"  {name:<28} {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] steps of the dense model")
    for how, found in record["deviation_of_blocks"].items():
        print(f"fused from exact, by block, {how}:", " ".join(f"{x:.0e}" for x in found))
    if args.out:
        write_json(args.out, record | {"provenance": origin})


if __name__ == "__main__":
    main()
