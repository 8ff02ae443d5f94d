"""Whether counts of tokens at multiples of 8 are faster than those beside them."""

from __future__ import annotations

from studies.catalogue.declaration import Study, Timing

PLACES = "2/5/8"
KEEPS = ("143/103/71", "142/102/70", "144/104/72")  # patches; with the class token multiples of 8, one less, one more

STUDY = Study(
    name="multiples",
    summary="counts of tokens at multiples of 8 against those beside them",
    claim=(
        "on a GPU in half precision counts at multiples of 8 (class token included) are faster than one token more or "
        "less by more than their MACs say; on a CPU in float32 they are not."
    ),
    source=(
        "tensor cores take tiles of 8 and more, and none of the papers says whether its counts are multiples; random "
        "pruning makes any count at no cost of its own."
    ),
    expected="on a CPU the three within the spread of their rounds; on a GPU multiples of 8 ahead by some percent.",
    seen="not run to its end yet.",
    time="not measured yet; seconds on a GPU, minutes on 2 cores.",
    values=(
        "ViT-S/16 at 224 px, three cuts, 197 tokens before them. It is at full size as it is; other models by "
        "--backbone and --device cuda. Counts are written for 196 patches."
    ),
    task="classification",
    reducers=",".join(f"random:at={PLACES},keeps={keeps}" for keeps in KEEPS),
    budgets="1",
    backbone="vit_small_patch16_224",
    timing=Timing(
        img_sizes="224", batch_sizes="1,16", rounds=20, num_classes=1000, quick_img_sizes="224", quick_rounds=2
    ),
)
