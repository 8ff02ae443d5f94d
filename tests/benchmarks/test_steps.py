"""Where a pass goes: parts add up to it, and what they should cost is what the counters count."""

import pytest
import torch
from benchmarks.steps import Watched, blocks_of

from cropr.macs import count
from studies.docs.steps import steps_table
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build


@torch.inference_mode()
@pytest.mark.parametrize("spec", ["none", "cropr", "evit", "tome"])
def test_parts_of_a_pass(spec):
    vit = create_backbone("vit_tiny_patch16_224", img_size=64, pretrained=False)
    model = build(vit, parse_one(spec), None if spec == "none" else 0.6).model.fold().eval()
    took = [Watched(model).seconds(torch.randn(2, 3, 64, 64))]
    rows = blocks_of(model, took, 2)
    parts = sum(row["linear_ms"] + row["attention_ms"] + row.get("reducer_ms", 0) for row in rows)
    assert 0 < parts < 1e3 * took[0]["pass", -1]
    assert all(row["linear_ms"] > 0 and row["attention_ms"] > 0 for row in rows)
    assert [i for i, row in enumerate(rows) if "reducer_ms" in row] == [int(i) for i in model.reducers]
    macs, outside = count(model), 2 * (16 * 3 * 16**2 * 192 + 192 * 1000)  # the embedding, and the head for one token
    inside = 1e9 * sum(row["linear_gmac"] + row["attention_gmac"] + row.get("reducer_gmac", 0) for row in rows)
    assert inside + outside == pytest.approx(2 * macs.total, rel=1e-9)


def test_the_table_says_what_the_rate_of_the_linear_layers_is_worth():
    block = {"tokens": 9, "linear_gmac": 0.2, "attention_gmac": 0.1, "linear_ms": 10.0, "attention_ms": 2.0}
    half = block | {"linear_gmac": 0.1, "linear_ms": 8.0, "reducer_gmac": 0.02, "reducer_mb": 3.0, "reducer_ms": 5.0}
    variants = {"none": {"pass_ms": 20.0, "blocks": [block]}, "x": {"pass_ms": 16.0, "blocks": [half]}}
    *_, dense, other = steps_table({"variants": variants, "gb_per_s": 1.5})
    # 0.2 GMAC in 10 ms: 20 GMAC/s, at which 0.1 take 5 ms in the place of 8, and 0.02 of a reducer 1 ms; 3 MB take 2 ms
    assert dense == "| `none` | 20.0 | 10.0 (20) | 2.0 | 8.0 | – | – | 1.00 | 1.00 |"
    assert other == "| `x` | 16.0 | 8.0 (12) | 2.0 | 1.0 | 5.00 | 3.00 | 1.25 | 1.54 |"
