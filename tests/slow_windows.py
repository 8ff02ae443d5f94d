"""Window attention once more, in float64: each query by itself, over a list of the keys that it sees.

Letters: P prefix tokens, N patches, T = P + N, H heads, E head width, D width.
"""

from dataclasses import replace

import torch

from cropr.tokens import Attended, Tokens

EPS = 1e-6  # of the policy's softmax


def slow_features(model, images):
    """Tokens behind the final norm. Reducers are the model's own; what they are given is computed here."""
    vit = model.vit
    found = vit._pos_embed(vit.patch_embed(images))
    x, rope = found if isinstance(found, tuple) else (found, None)
    prefix, grid = vit.num_prefix_tokens, x.shape[1] - vit.num_prefix_tokens
    policy = torch.ones(len(x), grid) if model.policy is not None and model.training else None
    tokens = Tokens(vit.norm_pre(x), prefix, grid, policy=policy, track=model.llf)
    reduced = False
    for i, block in enumerate(vit.blocks):
        if model.llf and i == len(vit.blocks) - 1:
            tokens, reduced = replace(tokens.restore(), policy=None), False
        turned = None if rope is None else rope[i] if getattr(vit, "rope_mixed", False) else rope
        before, reducer = tokens, model._reducer(i)
        rows = []
        for b in range(len(x)):
            rows.append(slow_attention(model, i, block.attn, block.norm1(tokens.x[b]), tokens, b, turned, reduced))
        out, keys = (torch.stack(part) for part in zip(*rows, strict=True))
        tokens = replace(tokens, x=tokens.x + scaled(block, out, "ls1", "gamma_1"))
        if reducer is not None and reducer.inside:
            queries = torch.stack([projected(block.attn, block.norm1(before.x[b]))[0] for b in range(len(x))])
            bias = None if tokens.size is None else tokens.size.log().to(x)[:, None, None]
            tokens = reducer(tokens, Attended(queries, keys, block.attn.scale, prefix, before.rope(turned), bias=bias))
        tokens = replace(tokens, x=tokens.x + scaled(block, block.mlp(block.norm2(tokens.x)), "ls2", "gamma_2"))
        if reducer is not None and not reducer.inside:
            tokens = reducer(tokens, None)
        reduced = reduced or reducer is not None
    return replace(tokens, x=vit.norm(tokens.x))


def slow_attention(model, i, attn, y, tokens, b, rope, reduced):
    """(output [T, D], keys [H, T, E] before RoPE) of image b, whose tokens behind the first norm are `y` [T, D]."""
    windows, prefix, columns = model.vit.windows, tokens.num_prefix, model.grid_size[1]
    depth = len(model.vit.blocks)
    everywhere = windows.global_blocks or [j for j in range(depth) if (depth - 1 - j) % 3 == 0]
    q, k, v = projected(attn, y)
    position = [None] * prefix + [None if p < 0 else int(p) for p in tokens.positions()[b]]
    window = [None if p is None else (p // columns // windows.size, p % columns // windows.size) for p in position]
    policy = None if tokens.policy is None else torch.cat([torch.ones(prefix), tokens.policy[b]]).to(y)
    size = tokens.size[b].log().to(y) if tokens.size is not None and tokens.proportional else torch.zeros(len(y)).to(y)
    rotated = [turned(attn, part, rope, position) for part in (q, k)]
    everyone = list(range(len(y)))

    def over(query, keys):
        """Of one query over the tokens `keys`, [H E]."""
        heads = []
        for head in range(attn.num_heads):
            logits = rotated[1][head, keys] @ rotated[0][head, query] * attn.scale + size[keys]
            if policy is None or (not reduced and i not in everywhere):
                heads.append(logits.softmax(0) @ v[head, keys])
                continue
            visible = torch.tensor([1.0 if j == query else policy[j] for j in keys]).to(y)
            weight = torch.zeros(len(y)).to(y)  # a key of another window counts as one that was dropped
            weight[keys] = (logits - logits.max()).exp() * visible
            heads.append((weight + EPS / len(y)) / (weight.sum() + EPS) @ v[head])
        return attn.proj(attn.norm(torch.cat(heads)))

    rows = []
    for query in everyone:
        if i in everywhere or (reduced and windows.after == "global"):
            rows.append(over(query, everyone))
        elif reduced:
            seen = [j for j in everyone if None in (window[query], window[j]) or window[query] == window[j]]
            rows.append(over(query, seen))
        else:
            own = sorted(set(window) - {None}) if query < prefix else [window[query]]
            each = [over(query, [j for j in everyone if j < prefix or window[j] == there]) for there in own]
            rows.append(torch.stack(each).mean(0))
    return torch.stack(rows), k


def projected(attn, y):
    """q, k, v of tokens [T, D], [H, T, E] each."""
    if attn.qkv is None:
        parts = [attn.q_proj(y), attn.k_proj(y), attn.v_proj(y)]
    else:
        bias = attn.qkv.bias if attn.qkv.bias is not None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        parts = list((y @ attn.qkv.weight.T + bias).chunk(3, dim=-1))
    q, k, v = (part.reshape(len(y), attn.num_heads, -1).transpose(0, 1) for part in parts)
    return attn.q_norm(q), attn.k_norm(k), v


def turned(attn, x, rope, position):
    """Queries or keys [H, T, E], those of patches rotated; `rope` [L, 2E] or [H, L, 2E]: sines, then cosines."""
    if rope is None:
        return x
    rows = []
    for head in range(len(x)):
        table = rope if rope.ndim == 2 else rope[head]
        for token, at in zip(x[head], position, strict=True):
            if at is None:
                rows.append(token)
                continue
            sine, cosine = table[at].chunk(2)
            half = len(token) // 2
            if getattr(attn, "rotate_half", False):
                other = torch.cat([-token[half:], token[:half]])
            else:
                other = torch.stack([-token[1::2], token[::2]], dim=1).flatten()
            rows.append(token * cosine + other * sine)
    return torch.stack(rows).view_as(x)


def scaled(block, branch, layer_scale, gamma):
    if hasattr(block, gamma):
        return branch if getattr(block, gamma) is None else getattr(block, gamma) * branch
    return getattr(block, layer_scale)(branch)
