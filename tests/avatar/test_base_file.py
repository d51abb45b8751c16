"""A frozen base in one file, under its authors' names, is the same as the folder: on small random networks."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from davatar.avatar import base_file, frozen_base
from davatar.avatar.base_file import SHAPES, load_networks, prediction_of
from davatar.avatar.frozen_base import empty_prompt, encode_prompt, find_base, load_base
from davatar.checks.bench.random_base import PRESETS, random_base
from davatar.core.errors import DataError, MissingError

TEXT_SIZES = {
    "hidden_act": "gelu", "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 77, "vocab_size": 100, "projection_dim": 16,
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE_NAMES = {
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip
CLIP_NAMES = {
    "embeddings.position_embedding.weight": "positional_embedding", "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn",
}  # fmt: skip


def renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}\.", rf"\1{theirs}.", f"{name}.").rstrip(".")
    return name


def unet_name(name: str) -> str:
    """diffusers' -> the authors', two residual blocks a level down and three up."""
    if found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        way, level, kind, layer, rest = found.groups()
        block = 1 + 3 * int(level) + int(layer) if way == "down" else 3 * int(level) + int(layer)
        rest = renamed(rest, RESNET) if kind == "resnets" else rest
        return f"{'input' if way == 'down' else 'output'}_blocks.{block}.{int(kind == 'attentions')}.{rest}"
    if found := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{3 * int(found[1]) + 3}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.conv\.(.*)", name):
        place = 2 if int(found[1]) else 1  # behind the transformer, which the lowest level lacks
        return f"output_blocks.{3 * int(found[1]) + 2}.{place}.conv.{found[2]}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        rest = renamed(found[3], RESNET) if found[1] == "resnets" else found[3]
        return f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}.{rest}"
    return renamed(name, OUTER)


def vae_name(name: str) -> str:
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    return renamed(name, VAE_NAMES)


def authors_tensors(unet, vae, text) -> dict[str, torch.Tensor]:
    found = {base_file.UNET + unet_name(name): value for name, value in unet.state_dict().items()}
    for name, value in vae.state_dict().items():
        convolution = ".attentions." in name and value.ndim == 2
        found[base_file.VAE + vae_name(name)] = value[..., None, None].contiguous() if convolution else value
    for name, value in getattr(text, "text_model", text).state_dict().items():
        if "_proj" in name and "out_proj" not in name:
            continue
        found[base_file.TEXT + renamed(name, CLIP_NAMES)] = value
    for k, layer in enumerate(getattr(text, "text_model", text).encoder.layers):
        parts = [getattr(layer.self_attn, f"{part}_proj") for part in "qkv"]
        place = f"{base_file.TEXT}transformer.resblocks.{k}.attn.in_proj_"
        found[place + "weight"] = torch.cat([part.weight for part in parts]).detach()
        found[place + "bias"] = torch.cat([part.bias for part in parts]).detach()
    # What a whole checkpoint holds besides: an unread last layer, and what generates nothing.
    last = f"{base_file.TEXT}transformer.resblocks.{len(text.encoder.layers)}.ln_1.weight"
    return found | {
        last: torch.ones(24),
        base_file.TEXT + "text_projection": torch.ones(24, 16),
        "betas": torch.ones(9),
    }


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("transformers", reason="the text encoder needs the extra `sd`")
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    base = random_base(PRESETS["published-small"])
    return base.unet, base.vae, CLIPTextModel(CLIPTextConfig(**TEXT_SIZES)).eval()


@pytest.fixture(scope="module")
def tensors(networks):
    return authors_tensors(*networks)


@pytest.fixture
def shapes(networks, tmp_path, monkeypatch) -> Path:
    """The sizes of the small networks instead of Stable Diffusion's."""
    place = tmp_path / "shapes"
    networks[0].save_config(place / "unet")
    networks[1].save_config(place / "vae")
    (place / "text_encoder").mkdir()
    (place / "text_encoder" / "config.json").write_text(json.dumps(TEXT_SIZES))
    monkeypatch.setattr(base_file, "SHAPES", place)
    return place


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_file_gives_what_its_networks_are(networks, tensors, shapes, tmp_path, suffix):
    unet, vae, text = networks
    file = tmp_path / f"v2-1_768-ema-pruned{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 110000}, file)
    else:
        save_file(tensors, file)
    assert find_base(str(file)) == str(file)
    base = load_base(str(file))
    same(base.unet.state_dict(), unet.state_dict())
    same(base.vae.state_dict(), vae.state_dict())
    assert base.place == str(file) and base.prediction == "v_prediction" and base.betas == (0.00085, 0.012)
    assert not any(p.requires_grad for p in [*base.unet.parameters(), *base.vae.parameters()])
    with torch.no_grad():
        expected = text(torch.tensor([[98, 99] + [0] * 75]))[0]
    torch.testing.assert_close(base.empty_prompt, expected, atol=1e-6, rtol=0)


def test_the_text_encoder_of_a_file_is_needed_once(tensors, shapes, tmp_path, monkeypatch):
    file = tmp_path / "sd21.safetensors"
    save_file({name: value.half() for name, value in tensors.items()}, file)
    first = empty_prompt(file)
    assert first.dtype == torch.float32 and {p.dtype for p in load_networks(file)[0].parameters()} == {torch.float32}
    monkeypatch.setattr(frozen_base, "encode_empty", None)
    assert torch.equal(empty_prompt(file.rename(tmp_path / "moved.safetensors")), first)
    with pytest.raises(MissingError, match=r"moved.safetensors: .*no tokenizer.* \(give a folder with unet/"):
        encode_prompt(tmp_path / "moved.safetensors", "a head")


def test_the_name_tells_what_is_predicted():
    names = {"v2-1_768-ema-pruned": "v_prediction", "v2-1_512-ema-pruned": "epsilon", "sd-2-1-Base": "epsilon"}
    assert {name: prediction_of(Path(f"{name}.safetensors")) for name in names} == names


class Callback:
    """What some trainings leave in a checkpoint."""


def test_what_is_wrong_with_a_file_is_said(tensors, shapes, tmp_path):
    def refused(message, name):
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            load_networks(tmp_path / name)

    (tmp_path / "notes.txt").write_text("hello")
    refused("end in .safetensors or .ckpt", "notes.txt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    refused("is not readable", "cut.safetensors")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04")
    refused("is not readable", "cut.ckpt")
    torch.save({"state_dict": tensors}, tmp_path / "half.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "half.ckpt").read_bytes()[:9999])
    refused("is not readable: it is truncated or damaged .copy it again.$", "half.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": {}}, protocol=4))
    refused("without executing what is in it", "old.ckpt")
    for name, holds in (("list.ckpt", {"state_dict": [1]}), ("numbers.ckpt", {0: torch.ones(1)})):
        torch.save(holds, tmp_path / name)
        refused("holds no U-Net .model.diffusion_model", name)
    torch.save({base_file.UNET + "nothing.weight": torch.ones(1)}, tmp_path / "other.ckpt")
    refused("its unet is not Stable Diffusion 2.1's: .*nothing.weight", "other.ckpt")
    torch.save({"state_dict": tensors, "callbacks": Callback()}, tmp_path / "lightning.ckpt")
    refused("without executing what is in it .take its .safetensors twin", "lightning.ckpt")
    save_file({k: v for k, v in tensors.items() if not k.startswith(base_file.VAE)}, tmp_path / "novae.safetensors")
    refused("holds no VAE .first_stage_model", "novae.safetensors")
    lacking = {k: v for k, v in tensors.items() if not k.endswith("middle_block.1.proj_in.weight")}
    save_file(lacking, tmp_path / "lacking.safetensors")
    refused("its unet is not Stable Diffusion 2.1's: .*missing", "lacking.safetensors")
    other = {k: v.new_zeros(*v.shape, 1, 1) if k.endswith("1.1.proj_in.weight") else v for k, v in tensors.items()}
    save_file(other, tmp_path / "sd1.safetensors")
    refused("its unet is not Stable Diffusion 2.1's: .*down_blocks.0.attentions.0.proj_in.weight", "sd1.safetensors")


def test_a_text_encoder_of_another_model_is_refused(tensors, shapes, tmp_path):
    file = tmp_path / "mixed.safetensors"
    save_file({k: v for k, v in tensors.items() if "resblocks.1.ln_2" not in k}, file)
    with pytest.raises(DataError, match="its text encoder is not .*layers.1.layer_norm2"):
        empty_prompt(file)
    save_file({k: v for k, v in tensors.items() if not k.startswith(base_file.TEXT)}, file)
    with pytest.raises(DataError, match="holds no text encoder .cond_stage_model.model"):
        empty_prompt(file)


def test_the_shipped_sizes_are_those_of_the_full_networks():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SHAPES, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(SHAPES, subfolder="vae"))
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    full = PRESETS["published"]
    assert tuple(unet.config.attention_head_dim) == full.heads and unet.config.cross_attention_dim == full.text
    transformers = pytest.importorskip("transformers")
    sizes = json.loads((SHAPES / "text_encoder" / "config.json").read_text())
    with torch.device("meta"):
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes))
    assert sum(p.numel() for p in text.parameters()) == 340_387_840


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_folder_whose_networks_lack_tensors_is_refused(networks, tmp_path, part):
    for name, network in zip(("unet", "vae"), networks, strict=False):
        network.save_pretrained(tmp_path / name)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensors[name] for name in sorted(tensors)[1::2]}, file)
    with pytest.raises(DataError, match=rf"{part}/diffusion_pytorch_model.safetensors: .* is missing .give a folder"):
        load_base(str(tmp_path))
