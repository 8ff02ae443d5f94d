"""Pictures of patches: every pixel and line against a loop over pixels and pairs of patches."""

import io

import numpy as np
import pytest
from PIL import Image

from results.figures.pictures import Row, borders, compose, draw_rows, strokes
from results.figures.plots import DPI, figure_bytes

GRID = (3, 4)
HELD = np.array([0, 0, -1, 3, 4, 0, -1, 3, 8, 9, 9, 11])


def image(height=12, width=16):
    return np.random.default_rng(0).random((height, width, 3))


@pytest.mark.parametrize("height, width", [(12, 16), (13, 18)])
def test_pixels(height, width):
    picture = image(height, width)
    got = compose(picture, HELD, GRID)
    members = {}
    for y in range(height):
        for x in range(width):
            members.setdefault(HELD[y * 3 // height * 4 + x * 4 // width], []).append((y, x))
    for holder, pixels in members.items():
        here = tuple(np.array(pixels).T)
        if holder == -1:
            expected = 1 - 0.15 * (1 - picture[here])
        elif (holder == HELD).sum() > 1:
            expected = np.broadcast_to(np.mean([picture[pixel] for pixel in pixels], axis=0), (len(pixels), 3))
        else:
            expected = picture[here]
        np.testing.assert_allclose(got[here], expected, rtol=1e-12)
    assert np.abs(got - picture).max() > 0.1


def test_nothing_changed_is_the_image_itself():
    assert (compose(image(), np.arange(12), GRID) == image()).all()
    assert borders(np.arange(12), GRID).shape == (0, 2, 2)
    assert borders(np.where(np.arange(12) % 2, np.arange(12), -1), GRID).shape == (0, 2, 2)  # dropped: no lines


def test_lines_run_around_merged_groups():
    sizes = {p: (p == HELD).sum() for p in range(12)}
    expected = set()
    for y in range(3):
        for x in range(4):
            for down, right in ((0, 1), (1, 0)):
                if y + down == 3 or x + right == 4:
                    continue
                a, b = HELD[4 * y + x], HELD[4 * (y + down) + x + right]
                if a != b and max(sizes.get(a, 0), sizes.get(b, 0)) > 1:
                    expected.add(((x + right, y + down), (x + 1, y + 1)))
    assert {tuple(map(tuple, line)) for line in borders(HELD, GRID).astype(int)} == expected


def test_dropped_patches_are_crossed_out():
    assert strokes(HELD, GRID).tolist() == [[[2, 1], [3, 0]], [[2, 2], [3, 1]]]
    assert strokes(np.arange(12), GRID).shape == (0, 2, 2)


def test_a_picture_has_a_row_for_each_model_and_a_column_for_each_block_that_changes_any():
    still = np.arange(12)
    rows = [
        Row("Dense", "true 1, predicted 1", True, image(), np.stack([still] * 3), GRID),
        Row("ToMe at 0.5", "true 1, predicted 7", False, image(), np.stack([still, HELD, HELD]), GRID),
    ]
    figure = draw_rows(rows, "item 0")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["12 patches", "12 patches", f"block 1: {(still == HELD).sum()}"]
    words = " ".join(text.get_text() for text in figure.texts)
    assert "ToMe at 0.5" in words and "predicted 7" in words and "item 0" in words
    png = figure_bytes(figure, "png")
    assert png == figure_bytes(draw_rows(rows, "item 0"), "png")
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.size == tuple(int(side * DPI) for side in figure.get_size_inches())


def test_names_with_dollars_are_drawn_as_they_are():
    row = Row("Ba$$in_{2.jpg: $\\frac", "$true, $predicted", None, image(), HELD[None], GRID)
    png = figure_bytes(draw_rows([row], "a $title$"), "png")
    assert Image.open(io.BytesIO(png)).size[0] > 100
