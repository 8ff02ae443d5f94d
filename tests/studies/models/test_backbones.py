"""Backbones by name and out of files: timm's own results, and one clear message for each bad file."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cropr.windows import Windows
from studies.commands.run import Options, configs_of, preflight
from studies.config import RunConfig
from studies.models import deploy
from studies.models.backbones import EMBEDDED, POOLS, create_backbone, describe, options_of
from studies.models.methods import parse_one
from studies.models.reducers import build
from studies.runs.pretraining import backbone_dir
from studies.study import timing_dir


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def source():
    """A model with weights that say where they come from."""
    torch.manual_seed(5)
    return timm.create_model("test_vit")


@pytest.fixture
def file(tmp_path, source):
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def load(file, name="test_vit", **options):
    return create_backbone(name, pretrained=False, checkpoint=file, **options)


# ---- names


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_backbones(name):
    model = create_backbone(name, pretrained=False)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 32, 32) and config["mean"] == (0.5,) * 3
    width = {"scenes_vit_narrow": 48, "scenes_vit_wide": 192}.get(name, 96)
    depth = {"scenes_vit_shallow": 3, "scenes_vit_deep": 12}.get(name, 6)
    assert describe(name)["embed_dim"] == model.embed_dim == width and len(model.blocks) == depth
    assert (model.cls_token is not None, model.global_pool) == (True, "token")


def test_position_embeddings_start_as_sines_of_row_and_column():
    """Sines of row, then column, then cosines, at 24 wavelengths each; the class token's is as without them."""
    torch.manual_seed(0)
    plain = create_backbone("scenes_vit", pretrained=False)
    torch.manual_seed(0)
    model = create_backbone("scenes_vit_sincos", pretrained=False)
    found, waves = model.pos_embed.detach()[0].double(), 96 // 4
    for row in range(8):
        for column in range(8):
            expected = []
            for wave in (math.sin, math.cos):
                for at in (row, column):
                    expected += [0.5 * wave(at * 100 ** (-w / waves)) for w in range(waves)]
            assert found[1 + row * 8 + column].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(model.pos_embed[:, :1], plain.pos_embed[:, :1]) and model.pos_embed.requires_grad
    assert torch.equal(model.blocks[5].mlp.fc2.weight, plain.blocks[5].mlp.fc2.weight)


def test_options_reach_the_model():
    for name in ("scenes_vit", "scenes_vit_sincos", "scenes_eva", "test_vit", "eva02_tiny_patch14_224"):
        model = create_backbone(
            name, pretrained=False, num_classes=3, img_size=64, patch_size=8, global_pool="avg", drop_path_rate=0.3
        )
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)
        assert model.patch_embed.grid_size == (8, 8) and model.global_pool == "avg"
        assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
        assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scenes_vti", "unknown backbone 'scenes_vti'; did you mean scenes_vit"),
        ("vit_smal_patch16_224", "did you mean .*vit_small_patch16_224"),
        ("test_vit.r160_in1", "no pretrained weights 'r160_in1'; did you mean r160_in1k"),
        ("resnet18", "not defined for ResNet; valid: VisionTransformer"),
        ("beit_base_patch16_224", "not defined for Beit"),
    ],
)
def test_unknown_and_unsupported_names(name, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, pretrained=False)


def test_embedded_backbones_have_no_pretrained_weights():
    with pytest.raises(ValueError, match="scenes_vit has no pretrained weights"):
        create_backbone("scenes_vit", pretrained=True)


def test_describe():
    found = describe("test_vit")
    model = timm.create_model("test_vit")
    assert found["params_m"] * 1e6 == sum(p.numel() for p in model.parameters())
    assert (found["kind"], found["class"], found["img_size"]) == ("timm", "VisionTransformer", 160)


def test_nothing_heavy_is_imported_with_the_module():
    code = (
        "import sys; from studies.models import backbones as b; b.describe('scenes_vit'); "
        "print({'torch', 'timm'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# ---- good files


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
def test_torch_files_in_any_wrapper(tmp_path, source, wrapper):
    state = source.state_dict()
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    wrapped = {"model": other, "epoch": 3, wrapper: state} if wrapper else state
    torch.save(wrapped, tmp_path / "w.pth")
    assert same(load(tmp_path / "w.pth"), source)


def test_keys_of_parallel_and_compiled_models(tmp_path, source):
    torch.save({f"module.{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt"), source)


@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224", "vit_tiny_patch16_224", "flexivit_small"])
@pytest.mark.parametrize("options", [{"img_size": 96}, {"patch_size": 8, "img_size": 96}])
def test_resampling_is_that_of_timm(tmp_path, name, options):
    source = timm.create_model(name)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors"), "hf_hub_id": None, "url": "", "custom_load": False}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    ours = load(tmp_path / "w.safetensors", name, **options)
    assert same(ours, theirs)
    assert ours.pos_embed.shape != source.pos_embed.shape
    assert ("patch_size" in options) == (ours.patch_embed.proj.weight.shape != source.patch_embed.proj.weight.shape)


def test_layer_scale_of_deit_files(tmp_path):
    full = timm.create_model("deit3_small_patch16_224")
    renamed = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in full.state_dict().items()
    }
    save_file(renamed, tmp_path / "w.safetensors")
    assert same(load(tmp_path / "w.safetensors", "deit3_small_patch16_224"), full)


def test_classes_are_those_of_the_file_unless_asked_otherwise(tmp_path, file, source, caplog):
    ten = timm.create_model("test_vit", num_classes=10)
    save_file(ten.state_dict(), tmp_path / "ten.safetensors")
    assert same(load(tmp_path / "ten.safetensors"), ten)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        model = load(file, num_classes=10)
    assert "classifier head of 1000 classes is replaced by a new one of 10" in caplog.text
    assert model.head.weight.shape[0] == 10 and torch.equal(model.pos_embed, source.pos_embed)


def test_a_file_that_says_what_it_is(tmp_path, file, source):
    torch.save({"arch": "test_vit", "state_dict": source.state_dict()}, tmp_path / "w.pth")
    assert same(create_backbone(str(tmp_path / "w.pth"), pretrained=False), source)
    with pytest.raises(ValueError, match="does not say which model"):
        create_backbone(str(file), pretrained=False)
    (tmp_path / "config.json").write_text('{"architecture": "test_vit"}')
    assert same(create_backbone(str(file), pretrained=False), source)


# ---- bad files


def test_missing(file):
    with pytest.raises(ValueError, match="does not exist; did you mean weights.safetensors"):
        load(file.with_name("weight.safetensors"))
    with pytest.raises(ValueError, match="does not exist"):
        load(file.parent / "nowhere" / "a.pth")
    file.rename(file.with_name("weights.ckpt"))
    with pytest.raises(ValueError, match="unknown kind; valid: .safetensors"):
        load(file.with_name("weights.ckpt"))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_truncated(tmp_path, source, kind, share):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="truncated"):
        load(path)


def test_pickled_objects_are_not_loaded(tmp_path):
    for zipped in (True, False):
        torch.save(
            {"state_dict": subprocess.CompletedProcess([], 0)},
            tmp_path / "w.pth",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(ValueError, match="pickled objects"):
            load(tmp_path / "w.pth")


@pytest.mark.parametrize("value", [{}, [1], {"epoch": 3}, torch.zeros(2)])
def test_files_without_weights(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not weights"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "test_vit2", "eva02_tiny_patch14_224", "test_mambaout"]
)
def test_weights_of_another_model(tmp_path, name):
    other = timm.create_model(name)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"is not of test_vit: \d+ of \d+ weights match; "):
        load(tmp_path / "w.safetensors")


def test_weights_with_some_missing(tmp_path, source):
    state = source.state_dict()
    del state["blocks.0.norm1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=f"{len(state)} of {len(state) + 1} weights match; 1 missing: blocks.0.norm1.w"
    ):
        load(tmp_path / "w.safetensors")


# ---- pooling


@pytest.mark.parametrize("pool", [None, *POOLS])
def test_what_the_classifier_sees(pool, tmp_path):
    """The mean that is asked for, of a reduced model and of the one that is deployed."""
    config = RunConfig("s", "classification", "scenes", "scenes_vit", "random:rate=4", 1, None, 0, None, pool=pool)
    torch.manual_seed(0)
    vit = create_backbone("scenes_vit", pretrained=False, **options_of(config, 32))
    model = build(vit, parse_one(config.reducer, False), None, seed=0).model.eval()
    deploy.save(model, tmp_path / "m", backbone="scenes_vit", data_config=None)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.forward_features(images)
        seen = {
            None: tokens.x[:, 0], "token": tokens.x[:, 0], "avg": tokens.patches.mean(1),
            "avg+prefix": tokens.x.mean(1),
        }  # fmt: skip
        expected = vit.head(vit.fc_norm(seen[pool]))
        torch.testing.assert_close(model(images), expected)
        assert torch.equal(deploy.load(tmp_path / "m")(images), model(images))
    others = [other for other in seen if other is not None and other != (pool or "token")]
    assert all((vit.head(vit.fc_norm(seen[other])) - expected).abs().max() > 1e-3 for other in others)


def test_pooling_is_part_of_a_run():
    ids = {config.id for pool in (None, *POOLS) for config in configs_of(Options(reducers="none", pool=pool))}
    assert len(ids) == 3 * (1 + len(POOLS))  # seeds of the study
    with pytest.raises(ValueError, match="does not take these options"):
        create_backbone("scenes_eva", pretrained=False, **POOLS["avg+prefix"])
    for options, said in (
        ({"pool": "avg+prefx"}, "unknown pool 'avg\\+prefx'; did you mean avg\\+prefix"),
        ({"pool": "avg", "task": "segmentation"}, "segmentation has none"),
    ):
        with pytest.raises(ValueError, match=said):
            configs_of(Options(reducers="none", **options))


# ---- windows


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["scenes_vit", "scenes_eva"])
def test_windows_are_those_of_the_deployed_model_too(backbone, tmp_path):
    text = "3:global=1/3/5,windows=by-position"
    config = RunConfig("s", "segmentation", "scenes", backbone, "cropr:rate=9", 1, None, 0, None, window=text)
    torch.manual_seed(0)
    vit = create_backbone(backbone, num_classes=5, pretrained=False, **options_of(config, 32))
    for parameter in vit.parameters():  # Eva's head begins near zero
        torch.nn.init.normal_(parameter, std=0.1)
    model = build(vit, parse_one(config.reducer, True), None).model.eval()
    deploy.save(model, tmp_path / "m", backbone=backbone, data_config=None)
    assert deploy.info(tmp_path / "m")["options"]["window"] == text
    loaded, images = deploy.load(tmp_path / "m"), torch.randn(2, 3, 32, 32)
    assert loaded.windows == Windows(3, (1, 3, 5), "by-position") and list(loaded.reducers) == ["1", "3"]
    assert torch.equal(loaded(images), model.fold()(images))
    vit.windows = None
    plain = build(vit, parse_one(config.reducer + ",at=1/3", True), None).model.eval()
    assert (plain(images) - loaded(images)).abs().max() > 1e-4


def test_windows_are_part_of_a_run():
    texts = (None, "4", "4:windows=by-position", "2", "4:windows=global")
    runs = [configs_of(Options(reducers="none", seeds=1, window=text))[0] for text in texts]
    assert [run.window for run in runs] == [None, "4", "4:windows=by-position", "2", "4"]
    assert len({run.id for run in runs}) == 4 and runs[1].id == runs[4].id
    assert len({backbone_dir(run, Path()) for run in runs}) == len({timing_dir([run], Path()) for run in runs}) == 4
    for text, said in (
        ("", "--window is empty"),
        ("four", "'four' is no whole number; written 14"),
        ("4:windws=global", "unknown option of windows 'windws'; did you mean windows"),
    ):
        with pytest.raises(ValueError, match=said):
            configs_of(Options(reducers="none", window=text))
    with pytest.raises(ValueError, match="the last block, 5, must be global"):
        preflight(configs_of(Options(reducers="none", window="4:global=2")))
    with pytest.raises(ValueError, match=r"cropr reduces at blocks 2/5 \(windows 4\) of this model of 6, not 3"):
        preflight(configs_of(Options(reducers="cropr:at=3,rate=4", window="4")))
