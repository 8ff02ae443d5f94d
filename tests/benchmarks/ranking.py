"""What scores that are not rounded are worth in bfloat16: kept patches that are not those of the float32 model, with
them and with scores in the model's own type, and what they cost.

    python tests/benchmarks/ranking.py [--models out/pareto/runs] [--out FILE.json]

`--models`: the deployed models of a study's runs, on 512 test scenes. Without it ViT-S/16 with random weights at half
of the MACs, on 32 random images, and speed at batch 1 and 16.
"""

import argparse
import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.rounds import options, printed, ratio_of, said, timed  # noqa: E402

BACKBONE, BUDGET = "vit_small_patch16_224", 0.5
SPECS = ("cropr", "tome", "evit", "dynamicvit", "norm", "keynorm", "classattn", "ats", "pitome", "mctf", "zerotprune")


@contextmanager
def rounded_scores() -> Iterator[None]:
    """Scores in the type of the model, as without cropr/tokens/precision.py."""
    users, wide_type = users_of_wide_type()
    for module in users:
        module.wide_type = lambda x: x.dtype
    try:
        yield
    finally:
        for module in users:
            module.wide_type = wide_type


@cache  # a search takes milliseconds, which would be timed
def users_of_wide_type() -> tuple[list[Any], Any]:
    """The modules of the project that have it by name, and what it is."""
    from cropr.tokens.precision import wide_type

    own = [module for name, module in sys.modules.items() if name.split(".")[0] in ("cropr", "baselines")]
    return [module for module in own if getattr(module, "wide_type", None) is wide_type], wide_type


class Rounded(nn.Module):
    """A model whose scores are rounded."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with rounded_scores():
            return self.model(images)


def live(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Grid positions of the live patches [B, N] behind the first reducer that leaves any out, and behind the last."""
    from cropr.reducer import observed

    found: list[Tensor] = []

    def note(block: str, args: tuple, after: Any) -> None:
        if after.index is not None:
            found.append(after.index)

    with torch.inference_mode(), observed(dict(model.reducers.items()), note):
        model(images.to(next(model.parameters()).dtype))
    return [found[0], found[-1]]


def others(kept: Tensor, right: Tensor) -> float:
    """Share of `kept` [B, N] that is not in `right` [B, N]."""
    wrong = sum(len(set(a.tolist()) - set(b.tolist())) for a, b in zip(kept, right, strict=True))
    return wrong / kept.numel()


def compare(model: nn.Module, images: Tensor) -> dict[str, list[float]]:
    """Shares of other patches than the float32 `model` has, at its first and its last place."""
    right, narrow = live(model.float(), images), copy.deepcopy(model).bfloat16()
    as_it_is = live(narrow, images)
    with rounded_scores():
        rounded = live(narrow, images)
    return {
        "not rounded": [others(a, b) for a, b in zip(as_it_is, right, strict=True)],
        "rounded": [others(a, b) for a, b in zip(rounded, right, strict=True)],
    }


def trained(runs: Path) -> dict[str, dict[str, list[float]]]:
    from studies.data.sets.scenes import Scenes
    from studies.models.deploy import load

    images = torch.cat([batch.images for batch in islice(Scenes().test_batches(128), 4)])
    models = {path.name: load(path / "model") for path in sorted(runs.iterdir()) if (path / "model.json").exists()}
    return {name: compare(model, images) for name, model in models.items() if len(model.reducers)}


def untrained(args: argparse.Namespace) -> tuple[dict[str, dict[str, list[float]]], list[dict[str, Any]]]:
    """Other patches of models with random weights, and what scores that are not rounded cost at batch 1 and 16."""
    from studies.models.backbones import create_backbone
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    torch.manual_seed(0)
    vit = create_backbone(BACKBONE, pretrained=False)
    made = {spec: build(copy.deepcopy(vit), parse_one(spec), BUDGET).model.fold().eval() for spec in SPECS}
    images, costs = torch.randn(32, 3, 224, 224), []
    found = {spec: compare(model, images) for spec, model in made.items()}
    with torch.inference_mode():
        for batch_size in (1, 16):
            some, calls = images[:batch_size].bfloat16(), {}
            for spec, model in made.items():
                rounded = Rounded(model.bfloat16())
                calls |= {spec: lambda m=model, x=some: m(x), f"{spec} (rounded)": lambda m=rounded, x=some: m(x)}
            record = timed(calls, args.rounds, processor_time=args.processor_time)
            samples = record["samples_s"]
            cost = {spec: ratio_of(samples[f"{spec} (rounded)"], samples[spec]) for spec in SPECS}
            costs.append({"batch_size": batch_size, **record, "cost": cost})
    return found, costs


def main() -> None:
    from results.records.files import write_json
    from studies.measure.clock import device_name
    from studies.runs.provenance import now, provenance

    parser = options("What scores that are not rounded are worth in bfloat16.")
    parser.add_argument("--models", type=Path, help="runs of a study")
    args, started = parser.parse_args(), now()
    if args.threads:
        torch.set_num_threads(args.threads)
    shares, costs = (trained(args.models), []) if args.models else untrained(args)
    print("other patches than the float32 model keeps, %: first place, last place")
    for name, found in shares.items():
        cells = [f"{how} {100 * first:.2f}, {100 * last:.2f}" for how, (first, last) in found.items()]
        print(f"  {name:<28} {'; '.join(cells)}")
    for record in costs:
        print(f"batch {record['batch_size']}, {said(record, device_name('cpu'))}; time over that with rounded scores:")
        printed(record["cost"])
    if args.out:
        origin = provenance("cpu", dtype="bfloat16", seeds={}, fingerprint="none", started=started)
        what = "trained models on 512 test scenes" if args.models else f"{BACKBONE}, random weights, 32 random images"
        write_json(Path(args.out), {"what": what, "other_patches": shares, "costs": costs, "provenance": origin})


if __name__ == "__main__":
    main()
