"""Cost and speed of every reducer against the size of the image, with random weights."""

from __future__ import annotations

from studies.catalogue.declaration import Study, Timing

STUDY = Study(
    name="resolution",
    summary="cost and speed against image size, random weights",
    claim=(
        "the larger the image, the more a reducer saves beyond its share of the MACs at a small one: attention is "
        "quadratic in the patches, and choosing them is linear."
    ),
    source="arXiv 2412.00965, where a whole detector of 1,536 px is 1.9 times as fast and its encoder 2.4 times.",
    seen=(
        "up to 768 px, batch 1 on a CPU: Cropr at 0.65 is 1.28, 1.36, 1.36 and 1.43 times as fast as dense. At "
        "1,024 px the run was stopped in its sixth round."
    ),
    time="6 minutes on 2 cores up to 768 px (one run); about as long again for 1,024.",
    values="ViT-S/16 and 150 classes, as on ADE20k, from 224 to 1,024 px.",
    task="segmentation",
    budgets="0.65",
    backbone="vit_small_patch16_224",
    timing=Timing(
        img_sizes="224,384,512,768,1024",
        batch_sizes="1",
        rounds=10,
        num_classes=150,
        quick_img_sizes="64,96",
        quick_rounds=2,
    ),
)
