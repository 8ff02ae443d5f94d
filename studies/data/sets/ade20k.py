"""`ade20k`: the scene parsing benchmark of ADE20K (150 classes; Zhou et al., CVPR 2017) in the folders of its release.

ADEChallengeData2016/images/training/*.jpg        annotations/training/*.png       20,210
                     images/validation/*.jpg      annotations/validation/*.png      2,000

Pixels are 1 to 150, and 0 where there is no label: 0 becomes the ignore label and the others move down by one. Images
are normalised with mean = std = 127.5 of 255.
"""

from __future__ import annotations

from pathlib import Path

from studies.config import RunConfig
from studies.data import Dataset
from studies.data.segmentation_files import Folders
from studies.data.sets.masks import MaskFolder

__all__ = ["ADE20k"]

CLASSES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""


class ADE20k(MaskFolder):
    """The data set; what it yields is MaskFolder's. `root`: the folder ADEChallengeData2016."""

    name = "ade20k"
    zero_is_ignored = True
    train = Folders("images/training", "annotations/training")
    val = Folders("images/validation", "annotations/validation")

    def read_classes(self, root: Path) -> list[str]:
        return [name.strip() for name in CLASSES.split(",")]


def _make(config: RunConfig, workers: int) -> ADE20k:
    assert config.data_dir is not None
    return ADE20k(config.data_dir, seed=config.seed, workers=workers, hold_out=config.split == "val")


DATASET = Dataset(
    name="ade20k",
    summary="ADE20K scene parsing, 150 classes",
    tasks=("segmentation",),
    splits={"train": "images/training, 20,210", "test": "images/validation, 2,000"},
    folder="ADEChallengeData2016",
    make=_make,
)
