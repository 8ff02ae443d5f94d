"""What is loaded to be timed: full batches of test items, from the first again behind the last."""

import pytest
import torch
from image_folders import folder, write_root

from studies.data.sets.scenes import Scenes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder(root, workers):
    data = folder(root, workers=workers)
    found = list(data.stream(4, 5))
    assert torch.cat([batch.item for batch in found]).tolist() == [i % 9 for i in range(20)]
    for batch in found:
        assert torch.equal(batch.images, data.test_items(batch.item.tolist()).images)


def test_scenes():
    data = Scenes()
    num = data.num_test // 500 + 2
    found = list(data.stream(500, num))
    assert torch.cat([batch.item for batch in found]).tolist() == [i % data.num_test for i in range(500 * num)]
    assert torch.equal(found[-1].images[-1:], data.test_items([(500 * num - 1) % data.num_test]).images)
