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
    seen=(
        "seed 0 (commit aaba26a), the model of the default study, 2,022 scenes; the dense model's class at 0.8, 0.65, "
        "0.5: ToMe 100.0, 99.8, 96.3 %, EViT 98.0, 96.6, 94.0, classattn 94.9, 94.0, 92.1, centre 96.1, 88.8, 76.3, "
        "grid 84.4, 69.3, 45.8, random 82.7, 66.7, 47.3, norm 33.3, 27.2, 23.9, keynorm 33.7, 22.5, 20.2. As expected "
        "but for the norms, which are below random pruning, and the centre, which is above classattn, EViT's score "
        "without fusion, at 0.8. The three other figures have the same order, but for the two norms among themselves "
        "and the patches of EViT at 0.5, whose cosine is .83 (centre .87, classattn .93). One seed, digits."
    ),
    time="35 minutes on 2 cores beside two trainings: 25 passes over 2,022 images and as many of the dense model.",
    values=(
        "nothing is trained. -KL is in nats, shown as hundredths; cosines are those of features behind the final "
        "norm, of the patches that are still there. The embedded model is trained first, as the default study's is; "
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
