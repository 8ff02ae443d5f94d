"""The figure of cost, speed and memory against image size."""

from itertools import pairwise

import pandas as pd

from results.figures.scaling import draw_scaling


def timings(sizes, batch_size=1):
    rows = [
        {
            "directory": "resolution", "device_name": "a CPU", "dtype": "float32", "batch_size": batch_size,
            "img_size": size, "variant": variant, "label": label, "role": role, "macs_g": share * size**2 / 1e5,
            "images_per_s_median": 1e6 / share / size**2, "images_per_s_p5": 0.9e6 / share / size**2,
            "images_per_s_p95": 1.1e6 / share / size**2, "peak_memory_mib": share * size, "shown": True,
            "ratio_only": False,
        }
        for size in sizes
        for variant, label, share, role in (("none", "Dense", 1.0, "dense"), ("cropr@0.5", "Cropr", 0.5, "method"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_nothing_is_drawn_for_one_size():
    assert draw_scaling(timings([224]), "title") is None and draw_scaling(pd.DataFrame(), "title") is None


def test_every_variant_is_a_line_through_its_figures_at_every_size():
    figure = draw_scaling(pd.concat([timings([512, 224, 384]), timings([224, 384], batch_size=8)]), "title")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "MACs per image, 10⁹", "throughput, images/s", "peak memory, MiB"
    ]  # fmt: skip
    assert "batch 1" in figure.get_suptitle()
    dense, cropr = (container.lines[0] for container in figure.axes[0].containers)
    assert list(dense.get_xdata()) == [224, 384, 512]
    assert list(cropr.get_ydata()) == [0.5 * size**2 / 1e5 for size in (224, 384, 512)]


def test_labels_of_an_axis_do_not_overlap():
    figure = draw_scaling(timings([224, 384, 512, 768]), "title")
    figure.canvas.draw()
    for axes in figure.axes:
        labels = [label for label in axes.get_yticklabels(which="both") if label.get_text()]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
        assert len(boxes) > 2
        assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))


def test_a_figure_without_memory_has_two_panels():
    assert len(draw_scaling(timings([224, 384]).assign(peak_memory_mib=float("nan")), "title").axes) == 2
