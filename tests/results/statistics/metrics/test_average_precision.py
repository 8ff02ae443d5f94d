"""Average precision with image weights against pycocotools, on repeated images, and against loops."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from results.statistics.metrics.average_precision import (
    AREAS,
    IOU_THRESHOLDS,
    RECALLS,
    Matches,
    average_precision,
    average_recall,
    resample_average_precision,
)
from studies.tasks.coco_eval import METRICS, evaluate_coco, evaluator

SIZE = 200  # pixels of an image's side
CLASSES = 5  # the last but one has detections and no truth, the last nothing
TOLERANCE = 1e-9
NAMED = {
    "AP": ("all", slice(None)), "AP50": ("all", slice(0, 1)), "AP75": ("all", slice(5, 6)),
    "AP_small": ("small", slice(None)), "AP_medium": ("medium", slice(None)), "AP_large": ("large", slice(None)),
}  # fmt: skip
RECALL_NAMES = {"all": "AR_100", "small": "AR_small", "medium": "AR_medium", "large": "AR_large"}


def box_mask(box) -> dict:
    """An ellipse in the box, so that masks and boxes overlap differently, as compressed RLE."""
    x, y, width, height = box
    rows, cols = np.ogrid[:SIZE, :SIZE]
    inside = ((cols + 0.5 - x - width / 2) / width) ** 2 + ((rows + 0.5 - y - height / 2) / height) ** 2 <= 0.25
    return coco_mask.encode(np.asfortranarray(inside.astype(np.uint8)))


def data(seed: int, iou_type="bbox", num_images=24, ties=True, crowds=True):
    """Truths with sides from 8 to 180 pixels, and detections: most of them moved truths, some of a wrong class, some
    twice, some anywhere. Every sixth image has no truth, every eighth no detection."""
    rng = np.random.default_rng(seed)
    image_ids = [7 + 3 * number for number in range(num_images)]
    truths, detections = [], []

    def annotate(annotations, image, label, box, **more):
        shape = {"bbox": [float(value) for value in box]} if iou_type == "bbox" else {"segmentation": box_mask(box)}
        annotations.append({"image_id": image, "category_id": int(label), **shape, **more})

    def random_box():
        sides = np.minimum(np.exp(rng.uniform(np.log(8), np.log(180))) * rng.uniform(0.7, 1.4, 2), 185).round()
        return np.concatenate([rng.integers(0, SIZE - sides), sides])

    def moved(box):
        return np.maximum(box + (rng.normal(0, 0.09, 4) * box[[2, 3, 2, 3]]).round(1), [0, 0, 4, 4])

    def score():
        value = rng.random()
        return float(round(value, 1)) if ties else value

    for number, image in enumerate(image_ids):
        boxes = [random_box() for _ in range(0 if number % 6 == 5 else rng.integers(1, 7))]
        for box in boxes:
            label = rng.integers(CLASSES - 2)
            crowd = int(crowds and rng.random() < 0.15)
            area = float(box[2] * box[3] * rng.uniform(0.6, 1))  # as COCO's: of the mask, not of the box
            annotate(truths, image, label, box, area=area, iscrowd=crowd, id=len(truths))
            for _ in range(0 if number % 8 == 7 else rng.integers(0, 4)):
                guess = label if rng.random() < 0.8 else rng.integers(CLASSES - 1)
                annotate(detections, image, guess, moved(box), score=score())
        for _ in range(0 if number % 8 == 7 else rng.integers(0, 4)):
            annotate(detections, image, rng.integers(CLASSES - 1), random_box(), score=score())
    return truths, detections, image_ids


def crowded(num=150):
    """One image with more detections of a class than the 100 that count; the good ones have low scores."""
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.integers(0, 150, (num, 2)), rng.integers(10, 50, (num, 2))])
    truths = [
        {"image_id": 1, "category_id": 0, "bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0, "id": n}
        for n, box in enumerate(boxes, 1)
    ]
    detections = [{"image_id": 1, "category_id": 0, "bbox": truth["bbox"], "score": 0.1} for truth in truths]
    for detection in detections[:40]:
        detection |= {"bbox": [0.0, 0.0, 3.0, 3.0], "score": 0.9}
    return truths, detections, [1]


def coco_stats(truths, detections, image_ids, iou_type, ranges=None) -> dict[str, float]:
    """As its manual uses pycocotools: loadRes, and ids of truths from 1."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": SIZE, "width": SIZE} for image in image_ids],
        "categories": [{"id": label} for label in range(CLASSES)],
        "annotations": [{**truth, "id": number} for number, truth in enumerate(truths, 1)],
    }
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes([dict(detection) for detection in detections]), iou_type)
    evaluation.params.areaRng = ranges or evaluation.params.areaRng
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def repeated(annotations, image_ids, counts):
    """Each image as often as `counts` says, under new ids: copy n of image i is 1000 i + n."""
    copies = {image: range(count) for image, count in zip(image_ids, counts, strict=True)}
    return [{**own, "image_id": own["image_id"] * 1000 + n} for own in annotations for n in copies[own["image_id"]]]


# ---- against pycocotools


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_and_matches_agree_with_pycocotools(seed, iou_type, capsys):
    truths, detections, image_ids = data(seed, iou_type)
    before = repr((truths, detections))
    metrics, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, iou_type)
    assert capsys.readouterr().out == "" and repr((truths, detections)) == before
    expected = coco_stats(truths, detections, image_ids, iou_type)
    assert metrics == pytest.approx(expected, abs=TOLERANCE) and list(metrics) == list(METRICS)
    assert 0.1 < metrics["AP"] < 0.9 and len(set(metrics.values())) > 9  # no number hides another
    for name, (area, thresholds) in NAMED.items():
        assert average_precision(matches, area=area, thresholds=thresholds) == pytest.approx(metrics[name], abs=1e-9)
    for area, name in RECALL_NAMES.items():
        assert average_recall(matches, area=area) == pytest.approx(metrics[name], abs=1e-9)
    assert matches.matched.shape == matches.ignored.shape == (4, 10, len(matches.score))
    assert matches.truths[0].sum() == sum(not truth["iscrowd"] for truth in truths)


def test_ties_are_ranked_as_pycocotools_does():
    truths, detections, image_ids = data(0)
    metrics, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, "bbox")
    backwards = np.arange(len(matches.score))[::-1]
    other = Matches(
        matches.image[backwards], matches.category[backwards], matches.score[backwards],
        matches.matched[..., backwards], matches.ignored[..., backwards], matches.truths,
    )  # fmt: skip
    assert abs(average_precision(other) - metrics["AP"]) > 1e-4
    shuffled = [image_ids[place] for place in np.random.default_rng(0).permutation(len(image_ids))]
    again, reordered, _ = evaluate_coco(truths, detections, shuffled, CLASSES, "bbox")
    assert again == metrics and average_precision(reordered) == average_precision(matches)
    assert np.array_equal(reordered.truths, matches.truths[:, [image_ids.index(image) for image in shuffled]])
    assert [shuffled[i] for i in reordered.image] == [image_ids[i] for i in matches.image]


def test_only_a_hundred_detections_of_an_image_count():
    truths, detections, image_ids = crowded()
    metrics, matches, _ = evaluate_coco(truths, detections, image_ids, 1, "bbox")
    assert len(matches.score) == 100 and matches.truths.sum(axis=(1, 2))[0] == 150
    assert metrics["AR_100"] == pytest.approx(60 / 150) == average_recall(matches)
    assert average_precision(matches) == pytest.approx(metrics["AP"], abs=TOLERANCE)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(2))
def test_weights_are_copies_of_images(seed, iou_type):
    truths, detections, image_ids = data(seed, iou_type, ties=False)
    counts = np.random.default_rng(seed).integers(0, 4, len(image_ids))
    metrics, _, _ = evaluate_coco(
        repeated(truths, image_ids, counts), repeated(detections, image_ids, counts),
        [1000 * image + n for image, count in zip(image_ids, counts, strict=True) for n in range(count)],
        CLASSES, iou_type,
    )  # fmt: skip
    plain, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, iou_type)
    for name, (area, thresholds) in NAMED.items():
        value = average_precision(matches, counts, area, thresholds)
        assert value == pytest.approx(metrics[name], abs=TOLERANCE)
        assert average_precision(matches, counts / 7, area, thresholds) == pytest.approx(value, abs=0.02)
    for area, name in RECALL_NAMES.items():
        assert average_recall(matches, counts, area) == pytest.approx(metrics[name], abs=TOLERANCE)
    assert abs(metrics["AP"] - plain["AP"]) > 1e-3  # the weights matter


def test_resamples_are_single_weightings():
    truths, detections, image_ids = data(1)
    _, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, "bbox")
    num = len(image_ids)
    weights = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), size=23)
    weights[0] = matches.truths[0].sum(axis=1) == 0  # only images without truths
    weights[1] *= matches.truths[0, :, 0] == 0  # none of class 0
    for area in AREAS:
        for thresholds in (slice(None), slice(5, 6)):
            single = [average_precision(matches, own, area, thresholds) for own in weights]
            for entries in (1, 4_000, 10**7):
                values = resample_average_precision(matches, weights, area, thresholds, block_entries=entries)
                assert np.array_equal(values, single, equal_nan=True)
            assert np.isnan(single[0]) and np.isfinite(single[1:]).sum() > 15
    assert np.isnan(average_recall(matches, weights[0]))
    with pytest.raises(ValueError):
        average_precision(matches, area="tiny")


# ---- against loops


def overlap(a, b) -> float:
    """IoU of boxes [x, y, width, height]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def hits_by_score(truths, detections, threshold) -> list[bool]:
    """Whether each detection finds a truth that none of higher score has found, from the highest score on."""
    hits, taken = [], set()
    for detection in sorted(detections, key=lambda own: -own["score"]):
        free = [
            (overlap(detection["bbox"], truth["bbox"]), number)
            for number, truth in enumerate(truths)
            if truth["image_id"] == detection["image_id"] and number not in taken
        ]
        best, number = max(free, default=(0, -1))
        hits.append(best >= threshold)
        if hits[-1]:
            taken.add(number)
    return hits


def slow_ap(truths, detections, mistake="") -> float:
    values = []
    for label in sorted({truth["category_id"] for truth in truths}):
        own_truths, own = ([a for a in kind if a["category_id"] == label] for kind in (truths, detections))
        for threshold in IOU_THRESHOLDS:
            hits = hits_by_score(own_truths, own, threshold)
            curve = [(sum(hits[:n]) / len(own_truths), sum(hits[:n]) / n) for n in range(1, len(hits) + 1)]
            for wanted in RECALLS:
                reached = [p for recall, p in curve if recall > wanted or (recall == wanted and mistake != "right")]
                if mistake == "raw":  # precision at that place, not the largest to the right
                    reached = reached[:1]
                values.append(max(reached, default=0))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_against_a_definition_in_loops(seed):
    truths, detections, image_ids = data(seed, num_images=3, ties=False, crowds=False)
    metrics, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, "bbox")
    expected = slow_ap(truths, detections)
    assert 0.05 < expected < 0.95
    assert metrics["AP"] == pytest.approx(expected, abs=TOLERANCE)
    assert average_precision(matches) == pytest.approx(expected, abs=TOLERANCE)
    for counts in ([2, 1, 1], [0, 3, 2]):
        weighted = average_precision(matches, np.array(counts))
        copies = [repeated(kind, image_ids, counts) for kind in (truths, detections)]
        assert weighted == pytest.approx(slow_ap(*copies), abs=TOLERANCE)


def found_by_score(truths, detections, threshold) -> set[int]:
    """Numbers of the truths that a detection of their class finds, from the highest score on."""
    taken: set[int] = set()
    for detection in sorted(detections, key=lambda own: -own["score"]):
        free = [
            (overlap(detection["bbox"], truth["bbox"]), number)
            for number, truth in enumerate(truths)
            if all(truth[key] == detection[key] for key in ("image_id", "category_id")) and number not in taken
        ]
        best, number = max(free, default=(0, -1))
        if best >= threshold:
            taken.add(number)
    return taken


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_truths_that_are_found_against_loops(seed):
    truths, detections, image_ids = data(seed, num_images=8, ties=False, crowds=False)
    found = evaluate_coco(truths, detections, image_ids, CLASSES, "bbox", (500.0, 5000.0)).found
    assert len(found) == len(truths) and 0 < found.sum() < len(truths)
    assert set(np.flatnonzero(found)) == found_by_score(truths, detections, 0.5)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_sizes_of_a_data_sets_own(iou_type):
    truths, detections, image_ids = data(0, iou_type)
    metrics, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, iou_type, (40.0**2, 80.0**2))
    ranges = [[0, 1e10], [0, 40**2], [40**2, 80**2], [80**2, 1e10]]
    expected = coco_stats(truths, detections, image_ids, iou_type, ranges)
    assert metrics == pytest.approx(expected, abs=TOLERANCE)
    for area in AREAS[1:]:
        assert average_precision(matches, area=area) == pytest.approx(expected[f"AP_{area}"], abs=TOLERANCE)
    standard = coco_stats(truths, detections, image_ids, iou_type)
    assert abs(standard["AP_medium"] - expected["AP_medium"]) > 1e-3


def test_false_boxes_are_as_large_as_their_masks_under_own_limits():
    """A box of 40 x 40 around a thin mask: under COCO's limits medium, under others what the mask is."""
    thin = np.zeros((SIZE, SIZE), np.uint8)
    thin[:40, :2] = 1
    box, own = [0.0, 0.0, 40.0, 40.0], {"image_id": 1, "category_id": 0}
    truth = own | {"bbox": [100.0, 100.0, 10.0, 10.0], "area": 90.0}
    wrong = own | {"bbox": box, "segmentation": coco_mask.encode(np.asfortranarray(thin)), "score": 0.5}
    ignored = {
        areas: evaluate_coco([truth], [wrong], [1], 1, "bbox", areas).matches.ignored[:, 0, 0].tolist()
        for areas in ((32.0**2, 96.0**2), (31.0**2, 96.0**2))
    }
    assert list(ignored.values()) == [[False, True, False, True], [False, False, True, True]]


def test_the_tolerance_shows_a_mistake():
    seen = {"right": 0.0, "raw": 0.0}
    for seed in range(6):
        truths, detections, image_ids = data(seed, num_images=3, ties=False, crowds=False)
        _, matches, _ = evaluate_coco(truths, detections, image_ids, CLASSES, "bbox")
        for mistake in seen:
            missed = abs(average_precision(matches) - slow_ap(truths, detections, mistake))
            seen[mistake] = max(seen[mistake], missed)
    assert min(seen.values()) > 1e5 * TOLERANCE


def test_two_detections_by_hand():
    """A miss, then a hit: precision 1/2 at every recall. With the hit's image twice and the miss's left out: 1."""
    truths = [{"image_id": 2, "category_id": 0, "bbox": [0, 0, 50, 50], "area": 2500.0}]
    detections = [
        {"image_id": 1, "category_id": 0, "bbox": [0, 0, 50, 50], "score": 0.9},
        {"image_id": 2, "category_id": 0, "bbox": [0, 0, 50, 40], "score": 0.8},  # IoU .8: 7 of the 10 thresholds
    ]
    metrics, matches, _ = evaluate_coco(truths, detections, [1, 2], 1, "bbox")
    assert metrics["AP"] == pytest.approx(0.35) and "AP_small" not in metrics and metrics["AR_100"] == 0.7
    assert average_precision(matches, np.array([0, 2])) == pytest.approx(0.7)
    assert average_precision(matches, np.array([3, 1])) == pytest.approx(0.7 / 4)
    assert np.isnan(average_precision(matches, np.array([1, 0])))


# ---- edges


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_nothing_detected_and_nothing_to_detect(iou_type):
    truths, detections, image_ids = data(0, iou_type, num_images=12)
    metrics, matches, _ = evaluate_coco(truths, [], image_ids, CLASSES, iou_type)
    assert set(metrics) == set(METRICS) and set(metrics.values()) == {0.0}
    assert average_precision(matches) == average_recall(matches) == 0.0 and matches.matched.shape == (4, 10, 0)
    metrics, matches, _ = evaluate_coco([], detections, image_ids, CLASSES, iou_type)
    assert metrics == {} and len(matches.score) > 0
    assert np.isnan(average_precision(matches)) and np.isnan(average_recall(matches))
    assert evaluate_coco([], [], image_ids, CLASSES, iou_type)[0] == {}


def test_area_of_a_mask_counts_not_that_of_its_box():
    box = [10.0, 10.0, 34.0, 34.0]  # medium; the ellipse in it is small
    truth = {"image_id": 0, "category_id": 0, "segmentation": box_mask(box), "area": 908.0}
    detection = {"image_id": 0, "category_id": 0, "segmentation": box_mask([90, 90, 34, 34]), "bbox": box, "score": 0.9}
    metrics, _, _ = evaluate_coco([truth], [detection, truth | {"score": 0.5}], [0], 1, "segm")
    assert metrics["AP_small"] == pytest.approx(0.5)  # the false one has not been ignored as medium


def test_what_cannot_be_evaluated():
    truths, detections, image_ids = data(0, num_images=2)
    for image_id, label in ((0, 0), (image_ids[0], CLASSES), (image_ids[0], -1)):
        wrong = detections[0] | {"image_id": image_id, "category_id": label}
        with pytest.raises(ValueError):
            evaluate_coco(truths, [wrong], image_ids, CLASSES, "bbox")
    with pytest.raises(ValueError, match="more than once"):
        evaluate_coco(truths, detections, image_ids * 2, CLASSES, "bbox")
    with pytest.raises(ValueError, match="keypoints"):
        evaluate_coco(truths, detections, image_ids, CLASSES, "keypoints")
    with pytest.raises(ValueError, match="RLE"):
        evaluate_coco([truths[0] | {"segmentation": [[0, 0, 0, 9, 9, 9]]}], [], image_ids, CLASSES, "segm")


def test_arrays_survive_a_file(tmp_path):
    both = {}
    for prefix, iou_type in (("box_", "bbox"), ("mask_", "segm")):
        both[prefix] = evaluate_coco(*data(2, iou_type, num_images=6), CLASSES, iou_type)[1]
    np.savez_compressed(tmp_path / "matches.npz", **both["box_"].to_arrays("box_"), **both["mask_"].to_arrays("mask_"))
    with np.load(tmp_path / "matches.npz") as arrays:  # allow_pickle is off
        for prefix, matches in both.items():
            read = Matches.from_arrays(arrays, prefix)
            older = Matches.from_arrays(vars(matches))  # of records that have bools
            for name, values in vars(matches).items():
                for again in (read, older):
                    assert np.array_equal(getattr(again, name), values) and getattr(again, name).dtype == values.dtype
            assert average_precision(read) == average_precision(matches)
        with pytest.raises(KeyError):
            Matches.from_arrays(arrays, "other_")


def test_what_boxes_and_masks_have_alike_is_kept_once():
    boxes = evaluate_coco(*data(2, "bbox", num_images=6), CLASSES, "bbox")[1]
    masks = replace(boxes, matched=boxes.ignored)
    arrays = boxes.to_arrays("box_")
    beside = masks.to_arrays("mask_", beside=arrays)
    assert set(beside) == {"mask_matched", "mask_ignored"}
    read = Matches.from_arrays(arrays | beside, "mask_")
    assert all(np.array_equal(getattr(read, name), values) for name, values in vars(masks).items())
    other = replace(masks, score=masks.score / 2).to_arrays("mask_", beside=arrays)
    assert set(other) == {"mask_score", "mask_matched", "mask_ignored"}
    assert np.array_equal(Matches.from_arrays(arrays | other, "mask_").score, masks.score / 2)
    for lost in beside:  # what masks have of their own is not taken from boxes
        with pytest.raises(KeyError):
            Matches.from_arrays(arrays | {name: array for name, array in beside.items() if name != lost}, "mask_")


def test_the_evaluator_is_named():
    assert evaluator().startswith("pycocotools 2.")
