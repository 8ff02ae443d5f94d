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
    seen=(
        "on a CPU (2 threads of an AMD EPYC, float32, commit aaba26a, 20 rounds, beside little other work), speed of "
        "multiples of 8 over one token less and one more, median [95 % interval]: batch 16 0.998 [0.980, 1.017] and "
        "1.020 [1.004, 1.033], batch 1 0.995 [0.951, 1.040] and 1.006 [0.936, 1.031]; their MACs differ by 0.6 %. "
        "Nothing but 2 % over one token more is told from the spread. Not measured on a GPU."
    ),
    time="2 minutes on 2 cores of an AMD EPYC.",
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
