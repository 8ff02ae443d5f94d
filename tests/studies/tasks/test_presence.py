"""Cropr's auxiliary tasks of images and of the cells of a coarse grid: which classes are there."""

import math

import pytest
import torch

from cropr.method import Training
from cropr.method.objective import CrossEntropy
from studies.data.sets.scenes import Scenes
from studies.models.backbones import create_backbone
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.tasks import load_task

SIZE = 32


def scenes_of(task):
    return Scenes(task, num_digits=(1, 4))


def model_of(task, spec):
    torch.manual_seed(0)
    vit = create_backbone("scenes_vit_sincos", pretrained=False, num_classes=None, detector=task == "detection")
    return build(vit, parse_one(spec, True), 0.7)


def present(task, target, number, row, column, side):
    """The classes in a cell of image `number`, pixel by pixel."""
    found = set()
    for y in range(SIZE):
        for x in range(SIZE):
            if (y * side // SIZE, x * side // SIZE) != (row, column):
                continue
            if task == "segmentation":
                found.add(int(target[number, y, x]))
            else:
                slots = target.masks[number, :, y, x].nonzero().flatten()
                found |= {int(target.classes[number, slot]) for slot in slots}
    return found


@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.parametrize(
    ("spec", "side"), [("cropr:aux=presence", 1), ("cropr:aux=grid", 4), ("cropr:aux=grid,queries=9", 3)]
)
def test_the_loss_asks_for_what_is_in_each_cell(task, spec, side):
    built, batch = model_of(task, spec), next(scenes_of(task).train_batches(0, 3))
    model, criterion = built.model.train(), load_task(task).criterion()
    objective = built.method.objective(Training(model, criterion))
    aux = [logits.detach() for logits in model.forward_features(batch.images).aux]
    terms, counts = objective(model, batch)
    num_classes, total = model.vit.num_classes, 0.0
    assert aux[0].shape == (3, side**2, num_classes)
    for number in range(3):
        for cell in range(side**2):
            there = present(task, batch.target, number, cell // side, cell % side, side)
            for label in range(num_classes):
                share = 1 / (1 + math.exp(-float(aux[0][number, cell, label])))
                total -= math.log(share if label in there else 1 - share)
    assert float(terms["aux_0"].total.detach()) == pytest.approx(total, rel=1e-5)
    assert terms["aux_0"].over == "answer" and int(counts["answer"]) == 3 * side**2 * num_classes


def test_labels_to_ignore_are_nowhere():
    target = torch.tensor([[[255, 1], [2, 255]]])
    found = CrossEntropy(ignore_index=255).present(target, (1, 2), 3)
    assert found.tolist() == [[[0, 0, 1], [0, 1, 0]]]


@pytest.mark.parametrize("spec", ["cropr:aux=presence", "cropr:aux=grid"])
def test_deployed_it_is_one_vector_and_decides_the_same(spec):
    model = model_of("detection", spec).model.eval()
    images = scenes_of("detection").test_items(range(4)).images
    folded = model.fold()
    assert all(reducer.weight.shape == (96,) for reducer in folded.reducers.values())
    with torch.no_grad():
        assert torch.equal(model(images), folded(images))


@pytest.mark.parametrize(
    ("spec", "dense", "message"),
    [
        ("cropr:aux=presence", False, "aux=presence of cropr is for dense tasks"),
        ("cropr:aux=presence,queries=2", True, "one query, not 2"),
        ("cropr:aux=grid,queries=8", True, "4, 9, 16, ..., not 8"),
        ("cropr:aux=present", True, "did you mean presence"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, dense, message):
    with pytest.raises(ValueError, match=message):
        parse_one(spec, dense)


@pytest.mark.parametrize(("task", "queries", "classes"), [("detection", 1, 10), ("segmentation", 64, 10)])
def test_left_to_itself_it_asks_as_the_paper_does(task, queries, classes):
    """In detection which classes are in the image, in segmentation for the class of each patch."""
    built = model_of(task, "cropr")
    reducer = built.model.reducers["0"]
    assert reducer.queries.shape[1] == queries and reducer.aux_head.linear.out_features == classes
    objective = built.method.objective(Training(built.model, load_task(task).criterion()))
    assert objective.cells == ((1, 1) if task == "detection" else None)
    assert str(built.method).startswith("cropr:rate=")
