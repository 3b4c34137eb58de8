"""Several adapters on one base: one speaks and learns, sums are exact, and the base never changes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, OSFConfig, PeftModel, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect, Unsupported
from holdfast.adapters.bottleneck_layer import BottleneckConfig
from holdfast.adapters.lora import lora
from holdfast.adapters.method import methods
from holdfast.adapters.several import AdapterSet
from holdfast.adapters.sharing import rewrites
from tests.adapters.test_bottleneck import awake, logits, moved, of, stepped, values
from tests.models import LAYERS, build

CONFIGS: dict[str, LoraConfig] = {
    "medicine": LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"]),
    "law": LoraConfig(r=4, lora_alpha=2, target_modules=["up_proj", "v_proj"]),
    "code": LoraConfig(r=3, lora_alpha=3, use_rslora=True, target_modules=["down_proj"]),
}
TENSORS = {"medicine": 4 * LAYERS, "law": 4 * LAYERS, "code": 2 * LAYERS}


def several(
    names: Mapping[str, Any] = CONFIGS, arch: str = "llama", *, dtype: torch.dtype = torch.float32
) -> AdapterSet:
    """Adapters on a random base, all of which have something to say."""
    adapters = AdapterSet(build(arch).to(dtype))
    for name, config in names.items():
        adapters.add(name, config)
    for seed, name in enumerate(names):
        awake(adapters.model, name, seed)
    return adapters


def bare(path: str) -> str:
    return path.removeprefix("base_model.model.").replace(".base_layer", "")


def base_of(adapters: AdapterSet) -> dict[str, Tensor]:
    known = {path for path, _ in build("llama").named_parameters()}
    return {bare(path): p for path, p in adapters.base.named_parameters() if bare(path) in known}


def digest(adapters: AdapterSet) -> str:
    """Of all tensors of the base, by their own names."""
    found = sha256()
    for path, tensor in sorted(base_of(adapters).items()):
        found.update(path.encode() + tensor.detach().numpy().tobytes())
    return found.hexdigest()


def trainable(model: nn.Module) -> set[str]:
    return {path for path, p in model.named_parameters() if p.requires_grad}


def product(model: Any, name: str, path: str) -> Tensor | float:
    """What an adapter adds to the weight of a layer, in float64, from its factors and its config alone."""
    layer, config = model.get_base_model().get_submodule(path), model.peft_config[name]
    if name not in layer.lora_A:
        return 0.0
    a, b = layer.lora_A[name].weight.double(), layer.lora_B[name].weight.double()
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    return scale * (b @ a).detach()


def layers_of(model: Any) -> list[str]:
    return [path for path, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")]


def test_each_adapter_trains_alone_whatever_happened_before(tmp_path: Path) -> None:
    adapters = several()
    start, seen = digest(adapters), []

    def train(name: str) -> None:
        model = adapters.activate(name)
        assert trainable(model) == set(of(model, name)) and adapters.active == name
        before = values(model)
        stepped(model, 2)
        assert moved(model, before) == set(of(model, name)) and len(of(model, name)) == TENSORS[name]
        seen.append(name)

    for name in CONFIGS:
        train(name)
    adapters.save("law", tmp_path / "law")
    adapters.load("copy", tmp_path / "law")
    train("medicine")
    adapters.load("law", tmp_path / "law")
    train("law")
    adapters.combine("sum", {"law": 1.0, "medicine": -0.5})
    assert trainable(adapters.model) == set(of(adapters.model, "law"))
    train("code")
    adapters.remove("copy")
    assert trainable(adapters.model) == set(of(adapters.model, "code"))
    adapters.add("late", LoraConfig(r=1, target_modules=["k_proj"]))
    assert trainable(adapters.model) == set(of(adapters.model, "code"))
    with adapters.base_only():
        logits(adapters.model)
    train("code")
    train("medicine")
    adapters.remove("sum")
    train("law")
    assert len(seen) == 9 and digest(adapters) == start
    for name in ("medicine", "code", "late", "law"):
        adapters.remove(name)
    assert digest(adapters) == start and set(values(adapters.base)) == set(values(build("llama")))


def test_the_base_is_shared_and_comes_back_as_it_was() -> None:
    base = build("llama")
    base.lm_head.requires_grad_(False)
    where = {path: p.data_ptr() for path, p in base.named_parameters()}
    flags, plain = {path: p.requires_grad for path, p in base.named_parameters()}, logits(base)
    adapters = AdapterSet(base)
    assert adapters.names == [] and adapters.active is None
    with adapters.base_only() as speaking:
        assert speaking is base
    for name, config in CONFIGS.items():
        adapters.add(name, config)
        awake(adapters.model, name)
    assert {path: p.data_ptr() for path, p in base_of(adapters).items()} == where
    added = sum(p.numel() for p in adapters.model.parameters()) - sum(p.numel() for p in base_of(adapters).values())
    assert added == sum(p.numel() for name in CONFIGS for p in of(adapters.model, name).values())
    with adapters.base_only() as speaking, adapters.base_only():
        assert speaking is adapters.model and torch.equal(logits(speaking), plain)
    assert not torch.equal(logits(adapters.model), plain)
    for name in ("law", "code", "medicine"):
        adapters.remove(name)
    assert torch.equal(logits(base), plain)
    assert {path: p.requires_grad for path, p in base.named_parameters()} == flags
    with pytest.raises(BadInput, match="no adapter on this base"):
        _ = adapters.model
    assert adapters.add("again", "lora") is adapters.model and adapters.active == "again"


def test_the_active_adapter_alone_speaks() -> None:
    adapters = several()
    for name, config in CONFIGS.items():
        alone = several({name: config})
        for path, p in of(alone.model, name).items():
            p.data.copy_(of(adapters.model, name)[path])
        assert torch.equal(logits(adapters.activate(name)), logits(alone.model))


def test_what_was_frozen_by_hand_stays_frozen_through_a_look_at_the_base() -> None:
    adapters = several()
    held = next(iter(of(adapters.model, "medicine").values())).requires_grad_(False)
    before = trainable(adapters.model)
    with pytest.raises(RuntimeError, match="on the way"), adapters.base_only():
        raise RuntimeError("on the way")
    assert not held.requires_grad and trainable(adapters.model) == before


# Sums --------------------------------------------------------------------------------------------------------------

WEIGHTS = {"medicine": 0.7, "law": -1.3, "code": 2.0}


def dense(model: Any, path: str, weights: Mapping[str, float]) -> Any:
    return sum(w * product(model, name, path) for name, w in weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_is_the_sum_of_the_products(dtype: torch.dtype) -> None:
    adapters = several(dtype=dtype)
    model: Any = adapters.combine("sum", WEIGHTS)
    assert adapters.active == "medicine" and len(layers_of(model)) == 4 * LAYERS
    for path in layers_of(model):
        torch.testing.assert_close(product(model, "sum", path), dense(model, path, WEIGHTS), rtol=1e-5, atol=1e-6)
    assert model.peft_config["sum"].r == 6


def test_the_sum_says_what_the_weights_with_the_products_in_them_say() -> None:
    adapters, plain = several(), build("llama")
    model: Any = adapters.combine("sum", WEIGHTS)
    for path in layers_of(model):
        weight = plain.get_submodule(path).weight
        weight.data.add_(dense(model, path, WEIGHTS).float())
    torch.testing.assert_close(logits(adapters.activate("sum")), logits(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 50])
def test_with_a_rank_it_is_the_nearest_of_that_rank(rank: int) -> None:
    adapters = several()
    model: Any = adapters.combine("sum", WEIGHTS, rank=rank)
    for path in layers_of(model):
        whole = dense(model, path, WEIGHTS)
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        nearest = u[:, :rank] * s[:rank] @ vh[:rank]
        torch.testing.assert_close(product(model, "sum", path), nearest, rtol=1e-4, atol=1e-5)
    assert model.peft_config["sum"].r == min(rank, 6)


def test_one_adapter_alone_is_scaled_and_brought_to_a_rank() -> None:
    adapters = several()
    model: Any = adapters.combine("less", {"law": -2.0}, rank=1)
    for path in layers_of(model):
        if isinstance(whole := dense(model, path, {"law": -2.0}), Tensor):
            u, s, vh = torch.linalg.svd(whole, full_matrices=False)
            torch.testing.assert_close(product(model, "less", path), u[:, :1] * s[:1] @ vh[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_peft_adds_up_to_the_same(arch: str, rank: int | None) -> None:
    leaves = ["c_attn", "c_fc"] if arch == "gpt2" else ["q_proj", "up_proj"]
    more = {"target_modules": leaves, "fan_in_fan_out": arch == "gpt2"}
    configs = {"one": LoraConfig(r=2, lora_alpha=6, **more), "two": LoraConfig(r=4, lora_alpha=2, **more)}
    adapters = several(configs, arch)
    model: Any = adapters.combine("ours", {"one": 0.5, "two": -2.0}, rank)
    kind = {"combination_type": "cat"} if rank is None else {"combination_type": "svd", "svd_rank": rank}
    model.add_weighted_adapter(["one", "two"], [0.5, -2.0], "theirs", **kind)
    said = {name: logits(adapters.activate(name)) for name in ("ours", "theirs", "one")}
    torch.testing.assert_close(said["ours"], said["theirs"], rtol=0, atol=1e-5)
    assert not torch.allclose(said["ours"], said["one"], atol=1e-2)


def test_a_sum_of_embeddings_and_of_patterns_is_exact_too(tmp_path: Path) -> None:
    configs = {
        "words": LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
        "odd": LoraConfig(r=2, rank_pattern={"layers.1.mlp.up_proj": 5}, target_modules=r".*(up_proj|q_proj)"),
    }
    adapters = several(configs)
    model: Any = adapters.combine("sum", {"words": 1.5, "odd": -1.0})
    for path in layers_of(model):
        layer = model.get_base_model().get_submodule(path)
        parts = [w * layer.get_delta_weight(n) for n, w in (("words", 1.5), ("odd", -1.0)) if n in layer.scaling]
        torch.testing.assert_close(layer.get_delta_weight("sum"), sum(parts))
    adapters.save("sum", tmp_path / "sum")
    again = AdapterSet(build("llama"))
    again.load("other", tmp_path / "sum")
    assert torch.equal(logits(again.model.eval()), logits(adapters.activate("sum")))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]), "use_dora"),
        (LoraConfig(r=2, modules_to_save=["lm_head"], target_modules=["q_proj"]), "modules_to_save"),
        (LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"]), "lora_bias"),
    ],
)
def test_what_is_more_than_products_is_not_added_up(config: LoraConfig, said: str) -> None:
    adapters = AdapterSet(build("llama", tied=False))
    adapters.add("plain", LoraConfig(r=2, target_modules=["q_proj"]))
    adapters.add("odd", config)
    with pytest.raises(Unsupported, match=said):
        adapters.combine("sum", {"plain": 1.0, "odd": 1.0})
    assert adapters.names == ["plain", "odd"]


def test_only_lora_is_added_up() -> None:
    adapters = several({"one": BottleneckConfig(size=2, target_modules=["o_proj"])})
    with pytest.raises(Unsupported, match="Only LoRA"):
        adapters.combine("sum", {"one": 1.0})


# Folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["law", "default"])
def test_what_was_saved_is_peft_s_and_comes_back(name: str, tmp_path: Path) -> None:
    adapters = several({"first": CONFIGS["medicine"], name: CONFIGS["law"]})
    adapters.save(name, tmp_path / "kept")
    said = logits(adapters.activate(name))
    alone = PeftModel.from_pretrained(build("llama"), tmp_path / "kept")
    assert torch.equal(logits(alone), said)
    adapters.activate("first")
    adapters.load("again", tmp_path / "kept")
    assert adapters.active == "first" and torch.equal(logits(adapters.activate("again").eval()), said)
    awake(adapters.model, name, 9)
    assert not torch.equal(logits(adapters.activate(name)), said)
    own = {path: p.data_ptr() for path, p in of(adapters.model, name).items()}
    adapters.load(name, tmp_path / "kept")
    assert torch.equal(logits(adapters.model), said)
    assert {path: p.data_ptr() for path, p in of(adapters.model, name).items()} == own
    adapters.save(name, tmp_path / "kept")
    assert not [file for file in tmp_path.iterdir() if file.name != "kept"]


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    adapters = several()
    adapters.save("law", tmp_path / "law")
    with pytest.raises(BadInput, match="18 tensors are missing, too many or of another"):
        adapters.load("medicine", tmp_path / "law")
    tensors = load_file(tmp_path / "law" / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), tmp_path / "law" / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="1 tensors are missing"):
        adapters.load("new", tmp_path / "law")
    assert adapters.names == list(CONFIGS) and trainable(adapters.model) == set(of(adapters.model, "medicine"))
    (tmp_path / "law" / "adapter_model.safetensors").rename(tmp_path / "law" / "adapter_model.bin")
    with pytest.raises(BadInput, match="holds no adapter"):
        adapters.load("new", tmp_path / "law")
    with pytest.raises(BadInput, match="other things"):
        adapters.save("law", tmp_path / "law")
    fresh = AdapterSet(build("llama"))
    with pytest.raises(BadInput, match="holds no adapter"):
        fresh.load("law", tmp_path)


# Adding ------------------------------------------------------------------------------------------------------------


def test_a_method_by_name_gives_the_adapter_that_it_gives_alone() -> None:
    alone = lora(build("llama"), rank=3, targets="attention", seed=5)
    adapters = AdapterSet(build("llama"), seed=5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    adapters.add("first", "lora")
    adapters.add("second", {"lora": {"rank": 3, "targets": "attention"}})
    assert torch.equal(torch.get_rng_state(), state)
    drawn = of(adapters.model, "second")
    assert {path.replace("second", "default") for path in drawn} == set(of(alone))
    assert all(torch.equal(p, drawn[path.replace("default", "second")]) for path, p in of(alone).items())


def test_several_bottlenecks_stand_on_one_base() -> None:
    adapters = AdapterSet(build("gpt2"))
    plain = logits(adapters.base)
    adapters.add("one", {"bottleneck": {"size": 4}})
    adapters.add("two", {"bottleneck": {"size": 2, "style": "houlsby", "activation": "gelu"}})
    assert torch.equal(logits(adapters.activate("two")), plain)
    before = values(adapters.model)
    stepped(adapters.model, 3)
    changed = moved(adapters.model, before)
    assert changed == set(of(adapters.model, "two")) and len(changed) == 8 * LAYERS
    assert torch.equal(logits(adapters.activate("one")), plain)


@pytest.mark.parametrize("method", ["vera", "ia3", "oft", "ln", "lokr"])
def test_other_kinds_share_a_base_as_well(method: str, tmp_path: Path) -> None:
    adapters = AdapterSet(build("llama", tied=False))
    start, plain = values(adapters.base), logits(adapters.base)
    adapters.add("one", method), adapters.add("two", method)
    model = adapters.activate("two")
    before = values(model)
    stepped(model, 3)
    assert (changed := moved(model, before)) and changed <= set(of(model, "two"))
    adapters.save("two", tmp_path / "two")
    said = logits(model.eval())
    adapters.load("three", tmp_path / "two")
    assert torch.equal(logits(adapters.activate("three").eval()), said)
    with adapters.base_only():
        assert torch.equal(logits(model), plain)
    for name in ("one", "two", "three"):
        adapters.remove(name)
    assert not moved(adapters.base, start)


def test_modules_that_train_whole_are_each_adapter_s_own() -> None:
    adapters = AdapterSet(build("llama", tied=False))
    for name in ("one", "two"):
        adapters.add(name, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    for name in ("two", "one", "two"):
        model = adapters.activate(name)
        before = values(model)
        stepped(model, 2)
        assert moved(model, before) == set(of(model, name)) and len(of(model, name)) == 2 * LAYERS + 1


@pytest.mark.parametrize(
    ("name", "method", "error", "said"),
    [
        ("law", "lora", BadInput, "already"),
        ("mlp", "lora", BadInput, "Take another name"),
        ("a.b", "lora", BadInput, "Take another name"),
        ("", "lora", BadInput, "Take another name"),
        ("train", "lora", BadInput, "Take another name"),
        ("new", "lorra", UnknownName, "lora"),
        ("new", "full", Unsupported, "adds nothing"),
        ("new", {"lora": {}, "full": {}}, BadInput, "its name or a mapping"),
        ("new", {"lora": {"init": "pissa"}}, Unsupported, "start"),
        ("new", LoraConfig(init_lora_weights="olora", target_modules=["q_proj"]), Unsupported, "change the base"),
        ("new", LoraConfig(bias="all", target_modules=["q_proj"]), Unsupported, "change the base"),
        ("new", IA3Config(target_modules=["v_proj"], feedforward_modules=[]), Unsupported, "no IA3 beside"),
        ("new", OSFConfig(target_modules=["v_proj"]), Unsupported, "beside them"),
        ("new", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), Unsupported, "Prompts"),
        ("new", LoraConfig(target_modules=["q_proj", "v_porj"]), UnmatchedSelect, "'v_porj'.*v_proj"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_changes(name: str, method: Any, error: Any, said: str) -> None:
    adapters = several()
    before, flags = values(adapters.model), trainable(adapters.model)
    with pytest.raises(error, match=said):
        adapters.add(name, method)
    assert adapters.names == list(CONFIGS) and adapters.active == "medicine"
    assert not moved(adapters.model, before) and trainable(adapters.model) == flags


def test_what_rewrites_the_base_is_no_first_adapter_either() -> None:
    adapters = AdapterSet(build("llama"))
    before = values(adapters.base)
    for method in (OSFConfig(target_modules=["v_proj"]), "osf", LoraConfig(init_lora_weights="pissa_niter_4")):
        with pytest.raises(Unsupported):
            adapters.add("new", method)
    assert adapters.names == [] and not moved(adapters.base, before) and set(values(adapters.base)) == set(before)


def test_names_that_are_not_there_are_refused() -> None:
    adapters = several()
    for call in (adapters.activate, adapters.remove, lambda name: adapters.combine("sum", {name: 1.0})):
        with pytest.raises(UnknownName, match="Did you mean 'law'"):
            call("lav")
    with pytest.raises(BadInput, match="Activate 'law' or 'code' first"):
        adapters.remove("medicine")
    for weights, rank in (({}, None), ({"law": float("nan")}, None), ({"law": 1.0}, 0)):
        with pytest.raises(BadInput, match="finite weights"):
            adapters.combine("sum", weights, rank)
    assert adapters.names == list(CONFIGS)
    with pytest.raises(BadInput, match="no 'law' yet"):
        AdapterSet(build("llama")).activate("law")


def test_removing_says_nothing_about_choices_of_peft() -> None:
    adapters = several()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        adapters.remove("law")
    assert adapters.names == ["medicine", "code"]


@pytest.mark.parametrize(("settings", "found"), [({}, False), ({"init": "pissa"}, True), ({"init": "olora"}, True)])
def test_what_rewrites_the_base_is_known(settings: dict[str, str], found: bool) -> None:
    made = methods.apply("lora", build("llama"), settings, seed=0)
    assert rewrites(made.peft_config["default"]) is found
    weights = dict(build("llama").named_parameters())
    moved = [n for n, p in made.get_base_model().named_parameters()
             if (bare := n.replace(".base_layer", "")) in weights and not torch.equal(p, weights[bare])]  # fmt: skip
    assert bool(moved) is found
