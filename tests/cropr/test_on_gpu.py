"""The same properties on another device: numbers of the CPU, kept patches, masks, kernels, one graph, gradients.

Marked gpu and left out where there is none; on the CPU the same code runs against itself.
"""

import pytest
import torch
from tiny_models import METHODS, MODELS, idle, images, possible, reduced, reducers, tiny

from cropr.reducer import observed
from cropr.vit import ReducedViT
from cropr.vit.masking import MaskedAttention
from studies.measure.clock import peak_memory_mib, seconds
from studies.measure.sdpa import sdpa_backend

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS = ("token", "avg", "registers", "eva_swiglu", "dinov3")
PAIRS = [(method, name) for method in METHODS for name in KINDS if possible(method, name)]
assert set(KINDS) <= MODELS.keys()
ATOL = 1e-3


@pytest.fixture(params=DEVICES)
def device(request):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return request.param


@torch.inference_mode()
@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_logits_and_kept_patches_are_those_of_the_cpu(method, name, device):
    model, x = reduced(method, name), images()
    right = model.forward_features(x)
    logits = model.forward_head(right)
    model.to(device)
    found = model.forward_features(x.to(device))
    assert torch.equal(found.index.cpu(), right.index)
    torch.testing.assert_close(model.forward_head(found).cpu(), logits, atol=ATOL, rtol=0)
    assert (tiny(name)(x) - logits).abs().max() > 10 * ATOL


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_rate_0_is_the_plain_model_bit_for_bit(method, device):
    vit = tiny("token").to(device)
    x = images().to(device)
    assert torch.equal(ReducedViT(vit, idle(method)).to(device).eval()(x), vit(x))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_narrow_types_rank_in_float32(method, dtype, device):
    model, ranked = reduced(method, "token").to(device, dtype), []

    def note(block, args, output):
        ranked.append(model.reducers[block].ranking(*args)[0].dtype)

    with observed(dict(model.reducers.items()), note):
        logits = model(images().to(device, dtype))
    assert logits.isfinite().all() and logits.dtype is dtype and not {torch.bfloat16, torch.float16} & set(ranked)


@pytest.mark.parametrize("kind", ["exact", "sdpa"])
def test_masked_training_has_the_gradients_of_the_cpu(kind, device):
    def gradients(where):
        vit = tiny("token").to(where)
        model = ReducedViT(vit, reducers("dynamicvit", vit), policy=kind).to(where).eval()
        model.masked_eval = True
        model(images().to(where)).square().mean().backward()
        return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    right = gradients("cpu")
    for name, found in gradients(device).items():
        torch.testing.assert_close(found, right[name], atol=ATOL, rtol=1e-2)


def test_exact_masks_under_autocast_are_float32(device):
    q, k, v = (torch.randn(2, 3, 9, 8, device=device) for _ in range(3))
    policy = torch.ones(2, 9, device=device)
    found = MaskedAttention.apply(q, k, v, policy, None)
    torch.testing.assert_close(found, (q @ k.transpose(-2, -1)).softmax(-1) @ v, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_with_autocast_has_finite_gradients(method, device):
    vit = tiny("token").to(device)
    policy = "exact" if method == "dynamicvit" else None
    model = ReducedViT(vit, reducers(method, vit), policy=policy).to(device).train()
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = model(images().to(device)).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in vit.parameters() if p.grad is not None)


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_one_graph_serves_all_batch_sizes(method, device):
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    model = reduced(method, "token").fold().to(device).eval()
    dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in (3, 5):
        batch = images(size).to(device)
        dynamo.mark_dynamic(batch, 0)
        torch.testing.assert_close(compiled(batch), model(batch), atol=ATOL, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1
    dynamo.reset()


@torch.inference_mode()
def test_the_clock_waits_and_memory_is_counted(device):
    model, x = reduced("cropr", "token").to(device), images().to(device)
    model(x)
    assert 0 < seconds(model, x, 3) < 5 and peak_memory_mib(model, x) > 0


@pytest.mark.gpu
def test_attention_without_a_mask_is_on_a_flash_kernel():
    assert sdpa_backend("cuda", torch.bfloat16, masked=False) in ("flash_attention", "cudnn_attention")
    assert sdpa_backend("cuda", torch.bfloat16, masked=True) != "flash_attention"


@pytest.mark.gpu
def test_nccl_adds_up_on_one_gpu(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        x = torch.ones(3, device="cuda")
        dist.all_reduce(x)
        assert x.tolist() == [1, 1, 1]
    finally:
        dist.destroy_process_group()
