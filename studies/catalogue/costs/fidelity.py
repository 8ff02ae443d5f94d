"""How far each reducer, off the shelf, moves the output of a pretrained model, on photographs without labels."""

from __future__ import annotations

from studies.catalogue import pareto
from studies.catalogue.declaration import Full, Question, Study

STUDY = Study(
    name="fidelity",
    summary="how far reducers move a pretrained model's output, without labels",
    claim=(
        "off the shelf merging moves the output least: ToMe at 0.8 of the MACs is within 2 points of naming the dense "
        "model's class on every image, and at each cost names it more often than methods that drop."
    ),
    source=(
        "ToMe (arXiv 2210.09461) is used off the shelf, the others after training; agreement with the dense model "
        "needs no labels, so that it can be asked on anyone's photographs."
    ),
    expected="tome above evit above the controls above random pruning, at every budget, in all four figures.",
    seen="not run to its end yet.",
    time="not measured yet; a pass over the images for each variant, and one of the dense model beside it.",
    values=(
        "nothing is trained. -KL is in nats, shown as hundredths; cosines are those of features behind the final norm, "
        "of the patches that are still there. The embedded model is trained first, as the default study's is; "
        "--dataset images takes any folder, --backbone any model of timm or NAME=FILE."
    ),
    question=Question("tome", "dense", margin_points=2, budget=0.8, metric="agreement"),
    task="fidelity",
    train="none",
    reducers="none,random,tome,evit,norm,keynorm,classattn,grid,centre",
    backbone_recipe=pareto.BACKBONE,
    quick_backbone_recipe=pareto.QUICK_BACKBONE,
    full=Full(dataset="images", backbone="vit_small_patch16_224"),
    default_of_task=True,
)
