"""`images`: any folder, without labels."""

import pytest
import torch
from image_folders import draw
from PIL import Image

from studies.data.loading import UnreadableImages
from studies.data.sets.images import Images
from studies.data.transforms import eval_transform, vit_config_of


@pytest.fixture
def root(tmp_path):
    for name in ("b.png", "a/2.jpg", "a/10.jpg"):
        draw(tmp_path / name, len(name))
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("no image")
    return tmp_path


def images(root, **options):
    return Images(root, vit_config=vit_config_of("test_vit"), num_classes=10, **options)


def test_images_are_those_of_timm_in_the_order_of_their_paths(root):
    data, config = images(root), vit_config_of("test_vit")
    assert (data.num_test, data.num_train, data.num_val, data.num_classes, tuple(data.classes)) == (3, 0, 0, 10, ())
    seen = [batch for batch in data.test_batches(2)]
    paths = ["a/10.jpg", "a/2.jpg", "b.png"]
    assert torch.cat([batch.item for batch in seen]).tolist() == [0, 1, 2]
    assert torch.cat([batch.target for batch in seen]).tolist() == [-1, -1, -1]
    expected = torch.stack([eval_transform(config)(Image.open(root / path).convert("RGB")) for path in paths])
    assert torch.equal(torch.cat([batch.images for batch in seen]), expected)
    assert torch.equal(data.test_items([2]).images, expected[2:])


def test_the_fingerprint_follows_names_and_content(root):
    first = images(root).fingerprint
    assert first == images(root, seed=3).fingerprint
    draw(root / "b.png", 99)
    second = images(root).fingerprint
    (root / "b.png").rename(root / "c.png")
    assert len({first, second, images(root).fingerprint}) == 3


def test_what_cannot_be_read_is_refused_by_name(root, tmp_path):
    (root / "cut.png").write_bytes((root / "b.png").read_bytes()[:60])
    with pytest.raises(UnreadableImages, match="cut.png"):
        images(root)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        images(root / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no images in it or below"):
        images(tmp_path / "empty")
