"""`scenes`: real handwritten digits on crops of real photographs, embedded, so that a study needs no download.

The 1,797 digits of scikit-learn (8x8; E. Alpaydin and C. Kaynak, UCI) are drawn 16x16 on 32x32 crops of the two
photographs that it ships (danielbuechele, vultilion; CC BY 2.0): most patches are background, so a good pruner has
something to find. Splits share no digit and no pixel of a photograph. A scene is a pure function of (seed, split,
index): its random numbers are a hash of these three, not the output of a generator with a state, so it is the same in
any batch, order or process.

A classification scene has one digit. With `num_digits=(1, 4)` scenes hold several that never overlap; class mask,
instance mask and boxes serve the dense tasks.

Letters: B scenes, K digits of a scene at most, L patches, S = 32 and D = 16 sides of a scene and a digit in pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from studies.config import RunConfig
from studies.data import Batch, Dataset, Instances

Split = Literal["train", "val", "test"]
TASKS = ("classification", "segmentation", "detection")

IMAGE_SIZE = 32
DIGIT_SIZE = 16
GRID = 4  # digits lie on multiples of this, so a patch of 1, 2 or 4 pixels never sees two digits
MAX_DIGITS = (IMAGE_SIZE // DIGIT_SIZE) ** 2
CONTRAST = 0.25  # of the photographs, about mid grey: leaves room for brighter ink
# Of each split: the columns of the photographs, and the places of its digits among eight of a class. What an interval
# is wide or narrow by is the number of digits, not of scenes.
COLUMNS: dict[str, tuple[int, int]] = {"train": (0, 384), "val": (384, 448), "test": (448, 640)}
PLACES: dict[str, tuple[int, ...]] = {"train": (2, 4, 5, 7), "val": (1,), "test": (0, 3, 6)}
REPEATS = {"val": 4, "test": 3}  # scenes of each digit
INK = 0.5  # opacity from which a pixel belongs to the digit
PATCH_INK = 0.125  # share of a patch that belongs to the digit from which the patch takes its label
WARP = 0.08  # largest entry of the random linear map, training only
OBJECT_AREAS = (69.5, 79.5)  # pixels of a digit: about a third of those of training is smaller, and a third larger
PLACES_APART = (0.4, 0.56)  # of the middle of a digit from that of a scene, in half sides: likewise
MEAN, STD = 0.5, 0.25
# Of the scenes that numpy and scikit-learn make in the versions of constraints.txt.
TESTED_FINGERPRINT = "799e5771aeffb667ea9f6614b72601341c2f5d3f0c474e4cc2f903205681de41"


class Sources(NamedTuple):
    """The raw material, read-only."""

    digits: np.ndarray  # [1797, 10, 10] float32 opacity in 0..1, with a ring of zeros
    labels: np.ndarray  # [1797] int64
    photos: np.ndarray  # [2, 3, 427, 640] float32 in 0..1, at reduced contrast


class Rendered(NamedTuple):
    """Scenes with all their labels. Slots that a scene leaves empty have class and source -1 and a box of zeros."""

    image: np.ndarray  # [B, 3, S, S] float32 in 0..1
    mask: np.ndarray  # [B, S, S] uint8, 0 background, d + 1 where digit d is drawn
    instances: np.ndarray  # [B, S, S] uint8, 0 background, slot + 1
    boxes: np.ndarray  # [B, K, 4] int64 x0 y0 x1 y1 around the drawn pixels, x1 and y1 exclusive
    classes: np.ndarray  # [B, K] int64
    sources: np.ndarray  # [B, K] int64 index into load_digits


class Digits(Instances):
    """The digits of scenes, all of which COCO would call small."""

    @property
    def areas(self) -> tuple[float, float]:
        return OBJECT_AREAS


class Scenes:
    """The data set.

    `task` decides what `target` is: the class of the first digit, the class mask, or the objects. `seed` changes the
    training scenes only; the others are fixed. `num_digits` is the range of digits in a scene, both ends included.
    `scored`: the split that stands for the test items. `once`: score one scene of each digit, as smoke runs do.
    `sources`: raw material other than scikit-learn's.
    """

    name = "scenes"
    classes = tuple("0123456789")  # names
    image_size = IMAGE_SIZE
    mean, std = (MEAN,) * 3, (STD,) * 3

    def __init__(
        self,
        task: str = "classification",
        seed: int = 0,
        patch_size: int = 4,
        num_digits: tuple[int, int] = (1, 1),
        scored: Split = "test",
        once: bool = False,
        sources: Sources | None = None,
    ):
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r} for scenes; available: {', '.join(TASKS)}")
        if patch_size not in (1, 2, GRID):
            raise ValueError(f"patch_size {patch_size} for scenes does not divide their {GRID} px grid; use 1, 2 or 4")
        if not 1 <= num_digits[0] <= num_digits[1] <= MAX_DIGITS:
            raise ValueError(f"num_digits {num_digits} for scenes is not a range (low, high) within 1..{MAX_DIGITS}")
        self.task, self.seed, self.patch_size, self.num_digits = task, seed, patch_size, num_digits
        self.scored = scored
        self.num_classes = 11 if task == "segmentation" else 10
        self.sources = sources or load_sources()
        self.num_train = len(self.split["train"])  # scenes of an epoch: each training digit once
        repeats = dict.fromkeys(REPEATS, 1) if once else REPEATS
        self.num_val, self.num_test = (len(self.split[name]) * repeats[name] for name in ("val", scored))

    @cached_property
    def split(self) -> dict[Split, np.ndarray]:
        """The digits of each split, as indices into the sources."""
        return split_digits(self.sources.labels)

    def train_batches(self, epoch: int, batch_size: int, start: int = 0, rows: slice = slice(None)) -> Iterator[Batch]:
        """Full batches of an epoch from number `start` on, and of them `rows`. The index runs on across epochs: no
        scene comes twice."""
        for number in range(start, self.num_train // batch_size):
            first = epoch * self.num_train + number * batch_size
            yield self.batch("train", np.arange(first, first + batch_size)[rows])

    def val_batches(self, batch_size: int, turns: slice = slice(None)) -> Iterator[Batch]:
        """All validation scenes, or of these batches some; the last one may be smaller."""
        yield from self._batches("val", self.num_val, batch_size, turns)

    def test_batches(self, batch_size: int, turns: slice = slice(None)) -> Iterator[Batch]:
        """All test scenes, likewise."""
        yield from self._batches(self.scored, self.num_test, batch_size, turns)

    def stream(self, batch_size: int, num: int) -> Iterator[Batch]:
        """`num` full batches of test scenes, from the first again behind the last."""
        for first in range(0, num * batch_size, batch_size):
            yield self.batch(self.scored, np.arange(first, first + batch_size) % self.num_test)

    def _batches(self, split: Split, num: int, batch_size: int, turns: slice) -> Iterator[Batch]:
        for first in range(0, num, batch_size)[turns]:
            yield self.batch(split, np.arange(first, min(first + batch_size, num)))

    def test_items(self, items: Sequence[int]) -> Batch:
        """Test scenes by number."""
        return self.batch(self.scored, np.asarray(items))

    def batch(self, split: Split, index: np.ndarray) -> Batch:
        """The scenes of an index [B] as tensors."""
        scenes = self.render(split, index)
        images = (scenes.image - np.float32(MEAN)) / np.float32(STD)
        labels = patch_labels(scenes.mask, self.patch_size)
        place = places(scenes.boxes[:, 0]) if self.task == "classification" else None
        return Batch(*map(tensor, (images, self._target(scenes), index, scenes.sources[:, 0], labels, None, place)))

    def _target(self, scenes: Rendered) -> np.ndarray | Instances:
        if self.task == "classification":
            return scenes.classes[:, 0]
        if self.task == "segmentation":
            return scenes.mask.astype(np.int64)
        slots = np.arange(1, self.num_digits[1] + 1, dtype=np.uint8)[:, None, None]
        masks = scenes.instances[:, None] == slots
        sizes = np.full((len(masks), 2), IMAGE_SIZE)
        crowd = np.zeros(scenes.classes.shape, bool)
        return Digits(*map(tensor, (scenes.boxes.astype(np.float32), scenes.classes, masks, crowd, sizes)))

    def render(self, split: Split, index: np.ndarray) -> Rendered:
        """The scenes of an index [B] with all their labels; any order, repeats allowed."""
        seed = self.seed if split == "train" else None
        draws = uniform(_key("scene", split, seed), index, 8 + 10 * MAX_DIGITS)
        scene_draws, digit_draws = draws[:8], draws[8:].reshape(MAX_DIGITS, 10, -1)
        image = _crops(self.sources.photos, split, scene_draws[:5])
        count, corners = _arrange(self.num_digits, scene_draws[5:7])
        mask, instances = np.zeros((2, len(index), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        labels, digits = self.sources.labels, self.split[split]
        sources = np.full(corners.shape[:2], -1)
        boxes = np.zeros((*corners.shape[:2], 4), np.int64)
        for slot in range(self.num_digits[1]):
            b = np.flatnonzero(slot < count)
            u = digit_draws[slot][:, b]
            place = _integers(u[0], len(digits)) if slot else _first_places(split, self.seed, len(digits), index[b])
            source = digits[place]
            rows, cols = corners[b, slot].T[:, :, None] + np.arange(DIGIT_SIZE)  # [b, D] each
            alpha = np.zeros((len(b), IMAGE_SIZE, IMAGE_SIZE), np.float32)
            digit = _draw(self.sources.digits[source], u[1:7], WARP if split == "train" else 0.0)
            alpha[np.arange(len(b))[:, None, None], rows[:, :, None], cols[:, None, :]] = digit
            drawn = alpha > INK
            image[b] += alpha[:, None] * (_inks(u[7:10]) - image[b])
            mask[b] += drawn * (labels[source] + 1)[:, None, None].astype(np.uint8)
            instances[b] += drawn * np.uint8(slot + 1)
            sources[b, slot], boxes[b, slot] = source, _boxes(drawn)
        classes = np.where(sources < 0, -1, labels[sources])
        return Rendered(image, mask, instances, boxes, classes, sources)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when other versions of packages give other scenes, or another split."""
        digest = hashlib.sha256(b"" if self.scored == "test" else self.scored.encode())
        # Of a fixed seed: the fingerprint is of the data, not of a run.
        scenes = type(self)(num_digits=self.num_digits, sources=self.sources)
        for split, digits in scenes.split.items():
            digest.update(digits.tobytes())
            for array in scenes.render(split, np.arange(0, scenes.num_test, 71)):
                digest.update(array.tobytes())
        return digest.hexdigest()


def tensor(array: Any) -> Any:
    """A contiguous tensor; what is none already stays."""
    return torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array


# ---- sources and split


@lru_cache(maxsize=1)
def load_sources() -> Sources:
    from sklearn.datasets import load_digits, load_sample_images  # takes a second: only when scenes are used

    bunch = load_digits()
    digits = np.pad(bunch.images.astype(np.float32) / 16, ((0, 0), (1, 1), (1, 1)))
    photos = np.stack(load_sample_images().images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    sources = Sources(digits, bunch.target.astype(np.int64), np.ascontiguousarray(0.5 + CONTRAST * (photos - 0.5)))
    for array in sources:
        array.setflags(write=False)
    return sources


def split_digits(labels: np.ndarray) -> dict[Split, np.ndarray]:
    """Indices of digits of `labels`, 898, 225 and 674: each class in a hashed order, dealt out by PLACES."""
    order = np.lexsort((random_bits(_key("split"), np.arange(len(labels))), labels))
    place = np.arange(len(order)) % 8
    return {split: np.sort(order[np.isin(place, places)]) for split, places in PLACES.items()}  # type: ignore[misc]


def patch_labels(mask: np.ndarray, patch_size: int) -> np.ndarray:
    """Class mask [B, S, S] to labels in the patch grid [B, L]."""
    side = IMAGE_SIZE // patch_size
    pixels = mask.reshape(-1, side, patch_size, side, patch_size)
    count = (pixels > 0).sum(4, dtype=np.uint8).sum(2)  # [B, side, side]
    label = pixels.max(4).max(2)  # a patch sees one digit at most, see GRID
    return (label * (count >= PATCH_INK * patch_size**2)).reshape(-1, side**2).astype(np.int64)


def places(boxes: np.ndarray) -> np.ndarray:
    """Of digits with boxes [B, 4]: 0 near the centre of the scene, 1 between, 2 near its border. -> [B] int64"""
    middle = (boxes[:, :2] + boxes[:, 2:]) / IMAGE_SIZE - 1  # [B, 2] from the centre, in half sides
    return np.searchsorted(PLACES_APART, np.hypot(*middle.T), side="right")


# ---- randomness


def random_bits(key: int, counter: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al., 2014) read at any place of its stream. -> uint64 of the same shape"""
    z = np.uint64(key) + counter.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(key: int, index: np.ndarray, num: int) -> np.ndarray:
    """`num` numbers in [0, 1) for each item of an index [B]. -> [num, B] float64"""
    counter = np.asarray(index, np.int64) * num + np.arange(num)[:, None]
    return (random_bits(key, counter) >> np.uint64(11)) * 2.0**-53


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def _integers(u: np.ndarray, num: int | np.ndarray) -> np.ndarray:
    """From [0, 1) to the integers 0 .. num - 1."""
    return (u * num).astype(np.int64)


# ---- composition


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num: int) -> np.ndarray:
    """Every one of `num` training digits once. -> [num]"""
    return np.argsort(random_bits(_key("order", seed, epoch), np.arange(num)), kind="stable")


def _first_places(split: Split, seed: int, num: int, index: np.ndarray) -> np.ndarray:
    """Which of the `num` digits of a split a scene is about: each once per epoch in training, elsewhere each in turn.
    -> [B]"""
    epoch, place = np.divmod(index, num)
    if split != "train":
        return place
    return np.array(
        [_epoch_order(seed, e, num)[p] for e, p in zip(epoch.tolist(), place.tolist(), strict=True)], np.int64
    )


@lru_cache(maxsize=MAX_DIGITS)
def _arrangements(count: int) -> np.ndarray:
    """All ways to put `count` digits on the grid without overlap, as top-left corners y x. -> [_, count, 2]"""
    steps = range(0, IMAGE_SIZE - DIGIT_SIZE + 1, GRID)
    places = [(y, x) for y in steps for x in steps]

    def apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= DIGIT_SIZE

    return np.array([c for c in combinations(places, count) if all(apart(a, b) for a, b in combinations(c, 2))])


def _arrange(num_digits: tuple[int, int], u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many digits and where. u [2, B] -> count [B], top-left corners y x [B, K, 2]"""
    low, high = num_digits
    count = low + _integers(u[0], high - low + 1)
    corners = np.zeros((len(count), high, 2), np.int64)
    for num in range(low, high + 1):
        ways, rows = _arrangements(num), count == num
        corners[rows, :num] = ways[_integers(u[1, rows], len(ways))]
    return count, corners


# ---- drawing


def _crops(photos: np.ndarray, split: Split, u: np.ndarray) -> np.ndarray:
    """Crops of the photographs, half of them flipped along each axis. u [5, B] -> [B, 3, S, S]"""
    (height, width), (left, right) = photos.shape[2:], COLUMNS[split]
    photo = _integers(u[0], len(photos))
    top, side = _integers(u[1], height - IMAGE_SIZE + 1), left + _integers(u[2], right - left - IMAGE_SIZE + 1)
    pixels = np.arange(IMAGE_SIZE)
    rows = top[:, None] + np.where(u[3, :, None] < 0.5, pixels, pixels[::-1])  # [B, S]
    cols = side[:, None] + np.where(u[4, :, None] < 0.5, pixels, pixels[::-1])
    # Into the flat array: much faster than an index of four arrays.
    plane = photo[:, None] * 3 + np.arange(3)  # [B, 3]
    return photos.take((plane[:, :, None] * height + rows[:, None])[..., None] * width + cols[:, None, None])


def _draw(digits: np.ndarray, u: np.ndarray, warp: float) -> np.ndarray:
    """Digits [B, 10, 10] enlarged bilinearly, through a random affine map near the identity. u [6, B] -> opacity
    [B, D, D]"""
    inner = digits.shape[1] - 2
    step = (np.arange(DIGIT_SIZE, dtype=np.float32) + 0.5) * inner / DIGIT_SIZE - inner / 2  # [D], from the centre
    dy, dx = step[:, None], step[None, :]
    # The map's entries are drawn directly: an angle would need a sine, whose last bit differs among CPUs.
    a, b, c, d, shift_y, shift_x = (warp * (2 * u - 1)).astype(np.float32)[:, :, None, None]
    last = inner + 1  # clipping ends in the ring of zeros
    y = np.clip(dy + a * dy + b * dx + 4 * shift_y + last / 2, 0, last)
    x = np.clip(dx + c * dx + d * dy + 4 * shift_x + last / 2, 0, last)
    y0, x0 = np.minimum(y.astype(np.int64), last - 1), np.minimum(x.astype(np.int64), last - 1)
    y, x, row = y - y0.astype(np.float32), x - x0.astype(np.float32), np.arange(len(digits))[:, None, None]
    upper = digits[row, y0, x0] * (1 - x) + digits[row, y0, x0 + 1] * x
    lower = digits[row, y0 + 1, x0] * (1 - x) + digits[row, y0 + 1, x0 + 1] * x
    return upper * (1 - y) + lower * y


def _inks(u: np.ndarray) -> np.ndarray:
    """Colours brighter than any background. u [3, B] -> [B, 3, 1, 1]"""
    return (0.8 + 0.2 * u).T.astype(np.float32)[:, :, None, None]


def _boxes(drawn: np.ndarray) -> np.ndarray:
    """Boxes around the drawn pixels [B, S, S]. -> [B, 4] x0 y0 x1 y1"""
    cols, rows = drawn.max(axis=1), drawn.max(axis=2)  # [B, S]
    first = np.stack([cols.argmax(1), rows.argmax(1)], 1)
    after = IMAGE_SIZE - np.stack([cols[:, ::-1].argmax(1), rows[:, ::-1].argmax(1)], 1)
    return np.concatenate([first, after], 1)


def _make(config: RunConfig, workers: int) -> Scenes:
    task = config.task if config.task in TASKS else "classification"
    digits = (1, 1) if task == "classification" else (1, MAX_DIGITS)
    return Scenes(task=task, seed=config.seed, num_digits=digits, scored=config.split, once=config.quick)


DATASET = Dataset(
    name="scenes",
    summary=f"handwritten digits on photographs, {IMAGE_SIZE} px, embedded",
    tasks=(*TASKS, "fidelity"),
    splits={
        "train": "half of the digits, drawn anew in every epoch",
        "val": "an eighth, on other parts of the photographs; choices are made on it",
        "test": "the others, likewise; looked at once, at the end",
    },
    make=_make,
)
