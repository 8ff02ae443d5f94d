"""Pooling by clusters against slow loops.

Letters: B images, N patches, K clusters, D width.
"""

import pytest
import torch

from cropr.pooling import pool
from cropr.tokens import Tokens


# Pooling by clusters


def pooled(tokens, cluster, weight):
    """Image by image, cluster by cluster: (patches, sizes) as lists."""
    prefix = tokens.num_prefix
    xs, sizes = [], []
    for b, clusters in enumerate(cluster.tolist()):
        held = [1.0] * len(clusters) if tokens.size is None else tokens.size[b, prefix:].tolist()
        weights = held if weight is None else weight[b].tolist()
        for c in range(max(clusters) + 1):
            members = [n for n, at in enumerate(clusters) if at == c]
            total = sum(weights[n] for n in members)
            xs.append(sum(weights[n] * tokens.patches[b, n] for n in members) / total)
            sizes.append(sum(held[n] for n in members))
    return torch.stack(xs).unflatten(0, (len(cluster), -1)), torch.tensor(sizes).view(len(cluster), -1)


@pytest.mark.parametrize("kind", ["plain", "sized", "weighted", "again"])
def test_pool(kind):
    torch.manual_seed(8)
    cluster = torch.stack([torch.cat([torch.arange(4), torch.randint(4, (8,))])[torch.randperm(12)] for _ in range(3)])
    centres = torch.stack([(cluster == c).int().argmax(dim=1) for c in range(4)], dim=1)
    owner = torch.arange(12).expand(3, -1)
    tokens = Tokens(torch.randn(3, 2 + 12, 5, dtype=torch.float64), 2, 12, owner=owner)
    if kind in ("sized", "weighted"):
        tokens = Tokens(tokens.x, 2, 12, size=torch.randint(1, 5, (3, 14)).float(), owner=owner)
    if kind == "again":  # two merges in a row
        tokens, centres = pool(tokens, cluster, centres), torch.tensor([[0, 2]]).expand(3, -1)
        cluster = torch.tensor([[0, 0, 1, 1]]).expand(3, -1)
    weight = 0.1 + torch.rand(cluster.shape) if kind == "weighted" else None
    after = pool(tokens, cluster, centres, weight)
    x, size = pooled(tokens, cluster, weight)
    torch.testing.assert_close(after.patches, x, atol=1e-6, rtol=1e-6)
    assert after.x[:, :2].equal(tokens.x[:, :2]) and after.size[:, 2:].equal(size)
    assert after.index.equal(tokens.positions().gather(1, centres))
    for b in range(3):
        for at in range(12):
            assert after.owner[b, at] == cluster[b, tokens.owner[b, at]]
    assert after.owner.gather(1, after.index).equal(torch.arange(after.num_live).expand(3, -1))
    if kind != "plain":  # sizes and weights tell
        assert (pooled(Tokens(tokens.x, 2, 12), cluster, None)[0] - x).abs().max() > 1e-3


def test_sizes_are_counted_in_float32():
    """bfloat16 cannot count beyond 256."""
    tokens = Tokens(torch.ones(1, 300, 2, dtype=torch.bfloat16), 0, 300)
    after = pool(tokens, torch.zeros(1, 300, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64))
    assert after.size.item() == 300 and after.x.dtype is torch.bfloat16 and after.x.eq(1).all()


