"""Loading a base: the embedded model, folders, the Hub's cache, and everything that may be wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from holdfast import tiny
from holdfast._errors import BadInput
from holdfast.base import Base, load_base, load_config, load_tokenizer
from holdfast.data.formats import Text, read
from tests.models import ARCHITECTURES, build, inputs

# A T5 config always ties, so a head parted by hand is not saved.
LOADABLE = [(arch, tied) for arch in ARCHITECTURES for tied in (True, False) if tied or arch != "t5"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may spoil."""
    return Path(shutil.copytree(tiny.MODEL, tmp_path / "base"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub: Path, name: str, source: Path) -> Path:
    """Lay files out as the Hub's cache does: a snapshot of links to blobs that are named by their SHA-256."""
    root, commit = hub / f"models--{name.replace('/', '--')}", "a" * 40
    for part in (root / "blobs", root / "refs", root / "snapshots" / commit):
        part.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for file in source.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        os.symlink(f"../../blobs/{blob.name}", root / "snapshots" / commit / file.name)
    return root


def test_the_embedded_model_tells_a_story() -> None:
    base = load_base("tiny")
    assert (base.name, base.model.dtype, base.model.training) == ("tiny", torch.float32, False)
    assert base.model.num_parameters() == 260_032
    ids = base.tokenizer("Once upon a time", return_tensors="pt").input_ids
    told = base.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=base.pad_id)
    assert base.tokenizer.decode(told[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named Lily."
    )


def test_a_folder_and_the_embedded_name_give_the_same_base(folder: Path) -> None:
    here, there = load_base("tiny"), load_base(folder)
    assert here.digest == there.digest == load_base(str(folder)).digest
    assert there.name == str(folder)
    for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_digest_is_that_of_config_and_weights(folder: Path) -> None:
    digest = load_base(folder).digest
    names = ("config.json", "model.safetensors")
    lines = "".join(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in names)
    assert digest == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "README.md").write_text("no part of the model")
    assert load_base(folder).digest == digest
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_base(folder).digest != digest


def test_sharded_weights(folder: Path) -> None:
    model = load_base(folder).model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    base = load_base(folder)
    assert all(torch.equal(a, b) for a, b in zip(base.model.parameters(), model.parameters(), strict=True))
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"\x01")
    assert load_base(folder).digest != base.digest
    shards[1].unlink()
    with pytest.raises(BadInput, match=f"lacks weight files .* {shards[1].name}. Download them again"):
        load_base(folder)


@pytest.mark.parametrize(("arch", "tied"), LOADABLE)
def test_every_architecture_loads_as_it_was_saved(arch: str, tied: bool, tmp_path: Path) -> None:
    model = build(arch, tied=tied)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny.MODEL).save_pretrained(tmp_path)
    base = load_base(tmp_path)
    assert type(base.model) is type(model)
    assert torch.equal(base.model(**inputs()).logits, model(**inputs()).logits)


def test_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    build("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny.MODEL).save_pretrained(tmp_path)
    assert load_base(tmp_path).model.dtype == torch.float32
    assert load_base(tmp_path, dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize(("tokens", "expected"), [({"pad": 7, "eos": 5}, 7), ({"eos": 5}, 5), ({}, 0)])
def test_the_id_that_fills_batches(tokens: dict[str, int], expected: int) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tiny.MODEL / "tokenizer.json"))
    for kind, token in tokens.items():
        setattr(tokenizer, f"{kind}_token", tokenizer.convert_ids_to_tokens(token))
    base = Base(build("llama"), tokenizer, "a model", "its digest")
    assert base.pad_id == expected
    assert (tokenizer.pad_token is None) == ("pad" not in tokens)


def test_the_hub(hub: Path) -> None:
    root = cached(hub, "someone/stories", tiny.MODEL)
    base = load_base("someone/stories")
    assert base.name == "someone/stories"
    assert base.digest == load_base("tiny").digest
    assert load_base("someone/stories", revision="a" * 40).digest == base.digest
    assert load_config("someone/stories").hidden_size == 64
    (root / "snapshots" / ("a" * 40) / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"someone/stories has no model.safetensors"):
        load_base("someone/stories")


@pytest.mark.parametrize("load", [load_base, load_config])
def test_a_hub_id_that_cannot_be_had(hub: Path, load: object) -> None:
    with pytest.raises(BadInput) as caught:
        load("nobody/nothing", revision="v2")  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    for part in ("`tiny`", str(Path("nobody/nothing").absolute()), "the Hub id nobody/nothing at revision v2"):
        assert part in message
    assert "give its folder" in message
    assert "hf auth login" in message


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/no such model", "a/b/c", Path("nothing")])
def test_a_folder_that_is_not_there(name: str | Path) -> None:
    with pytest.raises(
        BadInput, match=r"There is no folder .*(folder|model|nothing|c)\. A base is `tiny`, a folder that exists"
    ):
        load_base(name)


def test_a_name_that_can_be_neither(hub: Path) -> None:
    with pytest.raises(BadInput, match=r"Tried: the embedded model"):
        load_base("a b")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no config.json. A base needs config.json, model.safetensors and a tok"):
        load_base(tmp_path)


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    build("lora").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"holds only an adapter: merge it into its base first"):
        load_base(tmp_path)


@pytest.mark.parametrize("config", ["{", '{"model_type": "nonesuch"}', "[]"])
def test_a_config_that_cannot_be_read(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(BadInput, match=r"The config.json of .* cannot be used: "):
        load_base(folder)


def test_a_base_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"comes without a tokenizer .*`tokenizer.save_pretrained.folder.`"):
        load_base(folder)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_architecture_makes_a_tokenizer_up(arch: str, tmp_path: Path) -> None:
    build(arch).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"comes without a tokenizer"):
        load_base(tmp_path)


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match=r"has no model.safetensors. Pickled weights .* are never opened"):
        load_base(folder)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(BadInput, match=r"The weights of .* cannot be loaded: .* Download them again"):
        load_base(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(BadInput, match=r"The weights of .* cannot be loaded"):
        load_base(folder)


def test_weights_that_would_start_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lack 1 tensors of a LlamaForCausalLM .model.norm.weight.: they would"):
        load_base(folder)


def test_a_config_needs_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert load_config(folder).num_hidden_layers == load_config("tiny").num_hidden_layers == 5


def test_a_tokenizer_needs_no_weights(folder: Path, hub: Path) -> None:
    (folder / "model.safetensors").unlink()
    cached(hub, "someone/words", folder)
    expected = load_base("tiny").tokenizer("Once upon a time").input_ids
    for name in (folder, "someone/words"):
        assert load_tokenizer(name)("Once upon a time").input_ids == expected
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match="comes without a tokenizer"):
        load_tokenizer(folder)


def test_embedded_texts() -> None:
    assert set(tiny.TEXTS) == {"tiny/shakespeare", "tiny/stories"}
    for text in tiny.TEXTS.values():
        assert (text / "LICENCE").is_file()
    plays = {
        name: (tiny.TEXTS["tiny/shakespeare"] / f"{name}.txt").read_text("utf-8") for name in ("train", "evaluation")
    }
    assert 480_000 < len(plays["train"]) < 540_000
    assert 55_000 < len(plays["evaluation"]) < 65_000
    speeches = {name: set(play.strip().split("\n\n")) for name, play in plays.items()}
    shared = speeches["train"] & speeches["evaluation"]
    assert max(map(len, shared), default=0) < 10, shared
    stories = [record.text for record in read("tiny/stories") if isinstance(record, Text)]
    assert len(stories) == 195 and 30_000 < len(" ".join(stories).split()) < 45_000
    assert all(story.isascii() and "\n\n" not in story for story in stories)
    assert "CDLA-Sharing-1.0" in (tiny.TEXTS["tiny/stories"] / "LICENCE").read_text("utf-8")
    assert "MIT License" in (tiny.MODEL / "LICENCE").read_text("utf-8")


def test_a_name_that_is_nearly_one_there_is_gets_it_back(
    hub: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "shakespeare-model")
    for given, meant in (("tinny", "tiny"), ("shakespear-model", "shakespeare-model")):
        with pytest.raises(BadInput, match=f"There is no base '{given}'. Did you mean '{meant}'?") as caught:
            load_config(given)
        assert "Error" not in str(caught.value) and "Got:" not in str(caught.value)
    with pytest.raises(BadInput) as caught:
        load_config("quite-another")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("Got: ConnectError: [Errno -2] Name or service not known", "Name or service not known"),
        ("\n\nGot: ReadTimeout: The read operation timed out.", "The read operation timed out"),
        ("401 Client Error. (Request ID: 3)", "401 Client Error. (Request ID: 3)"),
        ("ValueError: ", "ValueError"),
        ("", "OSError"),
    ],
)
def test_only_what_an_error_says_is_passed_on(raised: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(raised)

    monkeypatch.setattr("holdfast.base.snapshot_download", fail)
    with pytest.raises(BadInput) as caught:
        load_config("someone/model")
    assert f"which failed: {said}. Check the spelling" in str(caught.value)
