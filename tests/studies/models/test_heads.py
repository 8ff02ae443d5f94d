"""Off the shelf a classifier knows the classes of the data, or the model is refused."""

from types import SimpleNamespace

import pytest
import torch
from command_line import study
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from studies.models.backbones import create_backbone
from studies.models.heads import as_it_comes

SYNSETS = ImageNetInfo("imagenet-1k").label_names()


def data(classes):
    return SimpleNamespace(classes=classes, num_classes=len(classes))


@pytest.fixture
def weights(tmp_path):
    """A small ImageNet model's file."""
    torch.manual_seed(0)
    vit = create_backbone("test_vit", pretrained=False)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    return vit, str(tmp_path / "vit.safetensors")


def test_rows_of_the_classes_by_name(weights, caplog):
    vit, file = weights
    rows = [217, 0, 482]
    some = as_it_comes("test_vit", data([SYNSETS[row] for row in rows]), pretrained=False, checkpoint=file)
    assert "3 rows of its classifier of 1000" in caplog.text
    images = torch.randn(2, 3, *vit.patch_embed.img_size)
    with torch.no_grad():
        assert torch.allclose(some.eval()(images), vit.eval()(images)[:, rows], atol=1e-6)


def test_a_whole_classifier_stays(weights, caplog):
    vit, file = weights
    same = as_it_comes("test_vit", data([str(i) for i in range(1000)]), pretrained=False, checkpoint=file)
    assert torch.equal(same.head.weight, vit.head.weight) and not caplog.text


@pytest.mark.parametrize("classes", [["cat", "dog"], [*SYNSETS[:5], "cat"]])
def test_other_classes_are_refused(weights, classes):
    with pytest.raises(ValueError, match=rf"1000 classes and the data set has {len(classes)}; .*synsets"):
        as_it_comes("test_vit", data(classes), pretrained=False, checkpoint=weights[1])


def test_a_file_without_a_classifier_is_refused(weights, tmp_path):
    vit, _ = weights
    headless = {key: value for key, value in vit.state_dict().items() if not key.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    with pytest.raises(ValueError, match="no classifier"):
        as_it_comes("test_vit", data(SYNSETS), pretrained=False, checkpoint=str(tmp_path / "headless.safetensors"))


def test_the_command_refuses_before_any_work(tmp_path):
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", num_classes=7, pretrained=False).state_dict(), tmp_path / "vit.safetensors")
    args = ("--train", "none", "--reducers", "none", "--backbone", f"scenes_vit={tmp_path / 'vit.safetensors'}")
    done = study("run", *args, "--out", tmp_path / "out")
    assert done.returncode == 2 and "names 7 classes and the data set has 10" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
