"""Cost and speed of every reducer against the size of the image, with random weights and the decoder of segmentation.

Claim: the larger the image, the more a reducer saves beyond its share of the MACs at a small one: attention is
quadratic in the patches, and choosing them is linear.
Source: arXiv 2412.00965, where a whole detector of 1,536 px is 1.9 times as fast and its encoder 2.4 times.
Command: `cropr-study run resolution`
Seen: up to 768 px, batch 1 on a CPU: Cropr at 0.65 is 1.28, 1.36, 1.36 and 1.43 times as fast as dense. At 1,024 px
the run was stopped in its sixth round.
Time: 6 minutes on 2 cores up to 768 px (one run); about as long again for 1,024.
Values: ViT-S/16 and 150 classes, as on ADE20k, from 224 to 1,024 px.
"""

from __future__ import annotations

BACKBONE, NUM_CLASSES = "vit_small_patch16_224", 150
IMG_SIZES = "224,384,512,768,1024"
BUDGETS = "0.65"
BATCH_SIZES, ROUNDS = "1", 10
QUICK_IMG_SIZES, QUICK_ROUNDS = "64,96", 2
