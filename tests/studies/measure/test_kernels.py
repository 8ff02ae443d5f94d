"""Which kernel a variant's attention runs on, and why on another than the dense model's."""

import pytest
import torch
from tiny_models import images, reduced, tiny
from torch.nn.functional import scaled_dot_product_attention as attend

from cropr.vit import ReducedViT
from studies.measure.sdpa import Call, attention_calls, backend_name, kernel_kept

FAST, MASKED, SLOW = Call("fast", False, "fast"), Call("slow", True, "fast"), Call("slow", False, "slow")


@pytest.mark.parametrize(
    "own, why",
    [
        ([FAST, FAST, FAST], None),
        ([FAST, MASKED, MASKED], "2 of 3 calls have a mask, without which it would be fast"),
        ([FAST, FAST, Call("slow", True, "other")], "1 of 3 calls have a mask"),
        ([FAST, FAST, SLOW], "1 of 3 calls without a mask"),
        ([FAST], "2 of 3 attentions are computed without it"),
        ([FAST, MASKED], "1 of 3 attentions are computed without it; 1 of 2 calls have a mask, without which it would "
         "be fast"),
    ],
)  # fmt: skip
def test_what_is_lost_is_said_with_its_reason(own, why):
    names = " + ".join(sorted({call.backend for call in own}))
    assert kernel_kept(own, [FAST] * 3) == {"backend": names, "kept": why is None, "why": why}


def test_calls_are_those_of_the_model():
    """ToMe weighs tokens by their size from its first merging on, in a mask; one call a block."""
    with torch.inference_mode():
        dense = attention_calls(ReducedViT(tiny("token")).eval(), images())
        merged = attention_calls(reduced("tome", "token"), images())
    assert [call.masked for call in dense] == [False] * 5
    assert [call.masked for call in merged] == [False] + [True] * 4
    assert {call.unmasked for call in merged} == {call.backend for call in dense}


def test_pytorch_is_asked_about_the_very_call():
    q, mask = torch.zeros(1, 2, 9, 8), torch.zeros(1, 1, 9, 9)
    seen = attention_calls(lambda x: attend(x, x, x, attn_mask=mask, scale=0.5), q)
    expected = backend_name(torch._fused_sdp_choice(q, q, q, attn_mask=mask, scale=0.5))
    assert seen == [Call(expected, True, backend_name(torch._fused_sdp_choice(q, q, q, scale=0.5)))]
