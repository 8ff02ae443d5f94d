"""Time of a training step of every reducer over that of the dense model, in interleaved rounds, and how far the fused
attention under a mask is from the exact one, block by block.

    python tests/benchmarks/training_step.py [--batch-size 16] [--rounds 10] [--budget 0.5] [--out FILE.json]

A step: forward, loss, backward, AdamW, on random images; ViT-S/16 at 224 px with random weights. "teacher" is the
forward pass of the dense model without gradients, which a method with a teacher makes in every step.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.rounds import options, printed, ratio_of, said, timed  # noqa: E402

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
    from cropr.method.objective import CrossEntropy, weighted_loss
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
    from results.records.files import write_json
    from studies.measure.clock import device_name
    from studies.runs.provenance import now, provenance

    parser = options("Time of a training step over that of the dense model.", rounds=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--budget", type=float, default=0.5)
    args, started = parser.parse_args(), now()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=args.device)
    batch = Labelled(images, torch.randint(0, 10, (args.batch_size,), device=args.device))
    steps = {spec: stepper(spec, args.budget, batch, args.device) for spec in SPECS}
    record = timed(steps | {"teacher": teacher(batch, args.device)}, args.rounds, args.device, args.processor_time)
    samples, few = record["samples_s"], batch._replace(images=images[:4])
    record |= {
        "backbone": BACKBONE, "img_size": args.img_size, "batch_size": args.batch_size, "budget": args.budget,
        "over_dense": {name: ratio_of(samples["none"], own) for name, own in samples.items()},
        "deviation_of_blocks": {
            f"queries and keys times {sharpness}": deviations(few, args.budget, sharpness) for sharpness in (1, 4)
        },
    }  # fmt: skip
    print(f"batch {args.batch_size}, {said(record, device_name(args.device))}; steps of the dense model:")
    printed(record["over_dense"])
    for how, found in record["deviation_of_blocks"].items():
        print(f"fused from exact, by block, {how}:", " ".join(f"{x:.0e}" for x in found))
    if args.out:
        origin = provenance(args.device, dtype="float32", seeds={}, fingerprint="none", started=started)
        write_json(Path(args.out), record | {"provenance": origin})


if __name__ == "__main__":
    main()
