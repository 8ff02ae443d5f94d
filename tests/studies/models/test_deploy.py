"""The deployment form: what is saved and loaded gives the same logits, bit for bit, and bad files are refused."""

import json

import pytest
import timm
import torch
from tiny_models import place

from cropr.reducer import Reducer
from cropr.vit import ReducedViT
from studies.models import deploy
from studies.models.backbones import create_backbone

METHODS = {
    "none": lambda vit, n: {},
    "random": lambda vit, n: place("random", vit, n, ratio=0.8, seed=3),
    "cropr": lambda vit, n: place("cropr", vit, n, rate=6),
    "cropr-all": lambda vit, n: place(
        "cropr",
        vit,
        n,
        rate=6,
        queries=4,
        heads=3,
        q_proj=True,
        k_proj=True,
        v_proj=True,
        pre_norm=True,
        select="sample",
    ),
    "cropr-fuse": lambda vit, n: place("cropr", vit, n, rate=6, rest="fuse", pre_norm=True),
    "cropr-squeeze": lambda vit, n: place("cropr", vit, n, rate=6, rest="squeeze"),
    "random-squeeze": lambda vit, n: place("random", vit, n, rate=6, rest="squeeze"),
    "tome": lambda vit, n: place("tome", vit, n, r=6),
    "tome-plain": lambda vit, n: place("tome", vit, n, r=5.5, proportional=False),
    "evit": lambda vit, n: place("evit", vit, n, keep=0.7),
    "evit-drop": lambda vit, n: place("evit", vit, n, keep=1 / 3, rest="drop"),
    "dynamicvit": lambda vit, n: place("dynamicvit", vit, n, ratio=0.6),
}


def reduced(name: str, backbone: str = "scenes_vit", **options) -> ReducedViT:
    torch.manual_seed(0)
    vit = create_backbone(backbone, pretrained=False, **options)
    for parameter in vit.parameters():  # Eva's head begins near zero
        torch.nn.init.normal_(parameter, std=0.1)
    size = vit.patch_embed.grid_size
    return ReducedViT(vit, METHODS[name](vit, size[0] * size[1])).eval()


def images(side: int = 32) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(model: ReducedViT, path) -> ReducedViT:
    loaded = deploy.load(path)
    side = model.vit.patch_embed.img_size[0]
    assert torch.equal(loaded(images(side)), model.fold()(images(side)))
    assert loaded.token_counts() == model.token_counts()
    assert not loaded.training
    return loaded


@pytest.mark.parametrize("backbone", ["scenes_vit", "scenes_eva"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_the_same_after_loading(tmp_path, method, backbone):
    model = reduced(method, backbone)
    deploy.save(model, tmp_path / "a.b", backbone=backbone, data_config=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.json", "a.b.safetensors"]
    assert_same_logits(model, tmp_path / "a.b")


@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "eva02_tiny_patch14_224", "deit_tiny_distilled_patch16_224"])
def test_timm_models_with_other_options_than_their_own(tmp_path, name):
    options = {"num_classes": 7, "img_size": 64, "patch_size": 8}
    model = reduced("random", name, **options)
    deploy.save(model, tmp_path / "m", backbone=name, data_config=None)
    assert set(deploy.info(tmp_path / "m")["options"]) == {"num_classes", "img_size", "patch_size"}
    assert_same_logits(model, tmp_path / "m.json")


def test_fusion_dtype_and_data_configuration_are_kept(tmp_path):
    torch.manual_seed(0)
    vit = create_backbone("scenes_eva", pretrained=False)
    model = ReducedViT(vit, place("cropr", vit, 64, rate=6, rest="llf"), llf=True).to(torch.bfloat16).eval()
    config = timm.data.resolve_model_data_config(vit)
    deploy.save(model, tmp_path / "m", backbone="scenes_eva", data_config=config)
    loaded = deploy.load(tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images().bfloat16()), model.fold()(images().bfloat16()))
    assert loaded.llf
    assert deploy.info(tmp_path / "m")["data_config"]["mean"] == [0.5] * 3


def test_dynamic_image_size_is_kept(tmp_path):
    vit = create_backbone("scenes_vit", pretrained=False, dynamic_img_size=True)
    model = ReducedViT(vit, place("tome", vit, 12 * 8, r=4), img_size=(48, 32)).eval()
    deploy.save(model, tmp_path / "m", backbone="scenes_vit", data_config=None)
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(deploy.load(tmp_path / "m")(x), model(x))


def test_what_only_training_needs_is_not_saved_and_the_model_stays_as_it_is(tmp_path):
    model = reduced("cropr").train()
    keys = list(model.state_dict())
    deploy.save(model, tmp_path / "m", backbone="scenes_vit", data_config=None)
    assert model.training and model.vit.training and list(model.state_dict()) == keys
    loaded = deploy.load(tmp_path / "m").state_dict()
    assert [key for key in loaded if key.startswith("reducers.0")] == ["reducers.0.weight"]


def test_loading_leaves_random_numbers_alone(tmp_path):
    deploy.save(reduced("cropr"), tmp_path / "m", backbone="scenes_vit", data_config=None)
    state = torch.get_rng_state()
    deploy.load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_its_name_does_not_make_is_not_saved(tmp_path):
    vit = timm.create_model("test_vit", num_heads=4)  # the same weights in the same shapes
    with pytest.raises(ValueError, match="num_heads"):
        deploy.save(ReducedViT(vit), tmp_path / "m", backbone="test_vit", data_config=None)
    with pytest.raises(ValueError, match="did you mean scenes_vit"):
        deploy.save(ReducedViT(vit), tmp_path / "m", backbone="scene_vit", data_config=None)
    assert not list(tmp_path.iterdir())


def test_an_unknown_reducer_is_not_saved(tmp_path):
    class Own(Reducer):
        def count_after(self, num_live, num_prefix):
            return num_live

    vit = create_backbone("scenes_vit", pretrained=False)
    with pytest.raises(ValueError, match="cannot save Own, which is in no method's file; valid: .*LinearScore"):
        deploy.save(ReducedViT(vit, {0: Own()}), tmp_path / "m", backbone="scenes_vit", data_config=None)


@pytest.fixture
def saved(tmp_path):
    deploy.save(reduced("evit"), tmp_path / "model", backbone="scenes_vit", data_config=None)
    return tmp_path


def test_missing_files(saved):
    with pytest.raises(ValueError, match="did you mean model"):
        deploy.load(saved / "modle")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors does not exist"):
        deploy.load(saved / "model")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_files_cut_off(saved, suffix, keep):
    file = saved / f"model.{suffix}"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=file.name):
        deploy.load(saved / "model")


def test_weights_of_another_model(saved):
    deploy.save(reduced("cropr"), saved / "other", backbone="scenes_vit", data_config=None)
    (saved / "model.json").write_bytes((saved / "other.json").read_bytes())
    with pytest.raises(ValueError, match="not the file that"):
        deploy.load(saved / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "format 'x' found"),
        ({"format": "cropr-study model 1"}, "format 'cropr-study model 1' found"),
        ({"backbone": "scenes_eva"}, "does not describe its weights"),
        ({"backbone": "scenes_vti"}, "did you mean"),
        ({"reducers": [{"block": 1, "kind": "Foo", "method": "evit"}]}, "unknown reducer 'Foo' .*valid: EViT"),
        ({"reducers": [{"block": 1, "kind": "ToMe", "method": "evit"}]}, "unknown reducer 'ToMe' .*valid: EViT"),
        ({"reducers": [{"block": 1, "kind": "EViT", "method": "evti"}]}, "unknown method 'evti'; did you mean evit"),
        ({"reducers": [{"block": 1, "kind": "EViT", "method": "own#1234"}]}, "give it, --method"),
        ({"reducers": [{"block": 1, "kind": "EViT"}]}, "reducers.0.method is missing"),
        ({"reducers": {"block": 1}}, "reducers: should be a valid list"),
        ({"options": 3}, "options: should be a valid dictionary"),
        ({"img_size": "32"}, "img_size"),
        ({"dtype": "float64"}, "dtype float64 said, float32 found"),
        ({"options": {"num_classes": 11}}, "does not describe its weights"),
        ({"options": {"num_classes": -1}}, "does not describe its weights"),
        ({"options": {"img_size": [40, 40]}}, "does not describe its weights"),
        ({"options": {"patch_size": [0, 0]}}, "does not describe its weights"),
        ({"options": {"global_pool": "foo"}}, "does not describe its weights"),
        ({"options": {"global_pool": "avg"}}, "does not describe its weights"),
        ({"reducers": [{"block": 1, "kind": "ToMe", "method": "tome"}]}, "does not describe"),
        ({"dtype": "float99"}, "does not describe"),
    ],
)
def test_descriptions_that_do_not_fit(saved, change, message):
    file = saved / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        deploy.load(saved / "model")
