"""Bottleneck adapters: where they stand, what they compute, and that PEFT treats them like its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM

from holdfast._errors import BadInput, UnknownName, UnmatchedSelect, Unsupported
from holdfast.adapters.bottleneck import bottleneck, projections
from holdfast.adapters.bottleneck_layer import BottleneckConfig, BottleneckLayer
from holdfast.adapters.method import methods
from holdfast.params.inventory import inventory
from holdfast.rule import Rule, rules
from holdfast.run import Run
from tests.models import ARCHITECTURES, HEADS, INNER, LAYERS, VOCABULARY, WIDTH, build, inputs, quickly
from tests.test_every_rule import ROWS, batches
from tests.test_training import settings, trainer

ENDS = {
    "llama": {"self_attn.o_proj", "mlp.down_proj"},
    "qwen2": {"self_attn.o_proj", "mlp.down_proj"},
    "gpt2": {"attn.c_proj", "mlp.c_proj"},
    "gpt_neox": {"attention.dense", "mlp.dense_4h_to_h"},
    "opt": {"self_attn.out_proj", "fc2"},
    "bert": {"attention.output.dense", "output.dense"},
    "t5": {f"layer.{i}.{name}.o" for i, name in ((0, "SelfAttention"), (1, "EncDecAttention"))}
    | {f"layer.{i}.DenseReluDense.wo" for i in (1, 2)},
}
"""Below a block, the layers that lead back to the residual stream."""


def of(model: torch.nn.Module, name: str = "default") -> dict[str, torch.nn.Parameter]:
    """The parameters of one adapter."""
    return {path: p for path, p in model.named_parameters() if f".{name}." in f"{path}."}


def values(model: torch.nn.Module) -> dict[str, Tensor]:
    return {path: p.detach().clone() for path, p in model.named_parameters()}


def awake(model: Any, name: str = "default", seed: int = 3) -> Any:
    """The same model with an adapter that says something, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in of(model, name).values():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Without a graph, since with one T5's attention takes another kernel once its weights are frozen."""
    found: Tensor = model(**inputs()).logits
    return found


def moved(model: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {path for path, value in values(model).items() if not torch.equal(value, before[path])}


def stepped(model: Any, steps: int = 5) -> list[float]:
    """Losses of a few AdamW steps over all parameters that train."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_adapters_stand_at_the_end_of_attention_and_mlp_and_start_as_the_base(arch: str) -> None:
    model = build(arch)
    before = logits(model)
    wrapped = bottleneck(model, style="houlsby", size=4)
    stacks = {param.stack for param in inventory(build(arch)) if param.stack}
    found = [path for path, module in wrapped.get_base_model().named_modules() if isinstance(module, BottleneckLayer)]
    below = Counter(
        path.split(f"{stack}.", 1)[1].partition(".")[2] for path in found for stack in stacks if stack in path
    )
    assert set(below) == ENDS[arch]
    # A T5 has self attention in both of its stacks, and its decoder blocks have five parts of which three are wrapped.
    assert len(found) == (5 if arch == "t5" else 2) * LAYERS
    assert torch.equal(logits(wrapped.train()), before) and torch.equal(logits(wrapped.eval()), before)
    trained = [param for param in inventory(wrapped) if param.trainable]
    assert {param.component for param in trained} == {"adapter"} and len(trained) == 4 * len(found)
    assert sum(param.numel for param in trained) == len(found) * (2 * 4 * WIDTH + 4 + WIDTH)


@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_the_other_style_stands_behind_the_mlp_alone(arch: str) -> None:
    model = build(arch)
    names = projections(model, ["mlp"])
    assert len(names) == LAYERS * (2 if arch == "t5" else 1)
    assert {p.component for p in inventory(model) if p.path.rpartition(".")[0] in names} == {"mlp"}
    assert bottleneck(model, size=4).peft_config["default"].target_modules == names


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize(("activation", "act"), [("relu", functional.relu), ("gelu", functional.gelu)])
def test_the_output_is_that_of_the_formula(arch: str, activation: str, act: Any) -> None:
    wrapped = awake(bottleneck(build(arch), style="houlsby", size=4, activation=activation))
    weights, plain = of(wrapped), build(arch)

    def behind(path: str) -> Any:
        w = {
            k: weights[f"base_model.model.{path}.bottleneck_{k[:-7]}.default.{k[-6:]}"]
            for k in ("down.weight", "up.weight")
        }
        b = {k: weights[f"base_model.model.{path}.bottleneck_{k}.default.bias"] for k in ("down", "up")}
        return lambda module, args, h: h + act(h @ w["down.weight"].T + b["down"]) @ w["up.weight"].T + b["up"]

    for path in projections(plain, ["attention", "mlp"]):
        plain.get_submodule(path).register_forward_hook(behind(path))
    assert not torch.allclose(logits(wrapped), logits(build(arch)), atol=1e-2)
    torch.testing.assert_close(logits(wrapped), logits(plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "t5"])
def test_only_the_adapter_trains_and_it_learns(arch: str) -> None:
    wrapped = bottleneck(build(arch), size=8, dropout=0.1).train()
    before = values(wrapped)
    torch.manual_seed(0)
    losses = stepped(wrapped, 20)
    assert losses[-1] < losses[0] - 0.05
    assert moved(wrapped, before) == set(of(wrapped))


def test_what_was_saved_is_loaded_by_peft_alone(tmp_path: Path) -> None:
    wrapped = awake(bottleneck(build("llama"), style="houlsby", size=4, activation="silu"))
    wrapped.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(build("llama"), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(wrapped)) and not any(p.requires_grad for p in again.parameters())
    learning = PeftModel.from_pretrained(build("llama"), tmp_path / "adapter", is_trainable=True)
    assert {n for n, p in learning.named_parameters() if p.requires_grad} == set(of(learning))
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert written["peft_type"] == "BOTTLENECK" and written["size"] == 4 and written["activation"] == "silu"
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path / "adapter")), BottleneckConfig)
    assert {f.name for f in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_the_file_of_settings_is_the_same_in_every_process(tmp_path: Path) -> None:
    """From 20 targets on PEFT keeps them in a set, whose order changes with the process."""
    names = {f"layer{i}" for i in range(30)}
    BottleneckConfig(target_modules=names).save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))["target_modules"] == sorted(names)


def test_several_adapters_switch_train_alone_and_go() -> None:
    wrapped: Any = bottleneck(build("llama"), size=4)
    base = logits(wrapped)
    wrapped.add_adapter("wide", BottleneckConfig(size=8, activation="gelu", target_modules=["o_proj"]))
    awake(wrapped), awake(wrapped, "wide", seed=4)
    said = {}
    for name, count in (("default", 4 * LAYERS), ("wide", 4 * LAYERS)):
        wrapped.set_adapter(name)
        assert {n for n, p in wrapped.named_parameters() if p.requires_grad} == set(of(wrapped, name))
        before = values(wrapped)
        stepped(wrapped, 2)
        assert moved(wrapped, before) == set(of(wrapped, name)) and len(of(wrapped, name)) == count
        said[name] = logits(wrapped)
    assert not torch.equal(said["default"], said["wide"])
    wrapped.set_adapter("default")
    assert torch.equal(logits(wrapped), said["default"])
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), base)
    assert torch.equal(logits(wrapped), said["default"])
    wrapped.delete_adapter("wide")
    assert not of(wrapped, "wide") and torch.equal(logits(wrapped), said["default"])


def test_two_active_adapters_stand_one_behind_the_other() -> None:
    wrapped: Any = bottleneck(build("llama"), size=4, layers="layers(0:1)")
    wrapped.add_adapter("next", BottleneckConfig(size=2, target_modules=["layers.0.mlp.down_proj"]))
    awake(wrapped), awake(wrapped, "next", seed=4)
    layer: Any = wrapped.get_base_model().model.layers[0].mlp.down_proj
    wrapped.base_model.set_adapter(["default", "next"])
    x = torch.randn(2, 3, INNER, generator=torch.Generator().manual_seed(0))

    def behind(name: str, h: Tensor) -> Tensor:
        found: Tensor = h + layer.bottleneck_up[name](functional.relu(layer.bottleneck_down[name](h)))
        return found

    torch.testing.assert_close(layer(x), behind("next", behind("default", layer.base_layer(x))))


def test_the_base_comes_back_and_nothing_is_merged() -> None:
    model = build("gpt2")
    before, plain = values(model), logits(model)
    wrapped: Any = awake(bottleneck(model, style="houlsby", size=4))
    for merge in (wrapped.merge_and_unload, wrapped.merge_adapter):
        with pytest.raises(Unsupported, match="not linear"):
            merge()
    base = wrapped.unload()
    assert base is model and set(values(base)) == set(before) and not moved(base, before)
    assert torch.equal(logits(base), plain)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "t5"])
def test_gradient_checkpointing_changes_no_gradient(arch: str, reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        wrapped = awake(bottleneck(build(arch), style="houlsby", size=4)).train()
        if checkpointing:
            wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            wrapped.enable_input_require_grads()
        wrapped(**inputs()).loss.backward()
        found.append({path: p.grad for path, p in of(wrapped).items()})
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found[0].values())
    for path, gradient in found[0].items():
        torch.testing.assert_close(found[1][path], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_compiled_it_says_the_same() -> None:
    wrapped = awake(bottleneck(build("llama"), style="houlsby", size=4))
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled), logits(wrapped), rtol=0, atol=1e-6)
    loss = compiled(**inputs()).loss
    loss.backward()
    assert all(p.grad is not None for p in of(wrapped).values())


def test_beside_a_narrow_base_the_adapter_stays_wide(tmp_path: Path) -> None:
    wrapped = awake(bottleneck(build("llama").to(torch.bfloat16), size=4))
    assert {p.dtype for p in of(wrapped).values()} == {torch.float32}
    assert logits(wrapped).dtype == torch.bfloat16
    fresh, narrow = bottleneck(build("llama"), size=4), bottleneck(build("llama").to(torch.bfloat16), size=4)
    assert all(torch.equal(p, of(narrow)[path]) for path, p in of(fresh).items())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert logits(awake(fresh)).isfinite().all()
    wrapped.save_pretrained(tmp_path)
    for low in (False, True):
        again = PeftModel.from_pretrained(build("llama").to(torch.bfloat16), tmp_path, low_cpu_mem_usage=low)
        assert all(torch.equal(p, of(again)[path]) for path, p in of(wrapped).items())
        assert torch.equal(logits(again), logits(wrapped))
    double = bottleneck(build("llama").double(), size=4)
    assert {p.dtype for p in of(double).values()} == {torch.float64}


def test_the_weights_follow_from_the_seed_and_no_other_random_state_moves() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(99)
        state = torch.get_rng_state()
        wrapped = bottleneck(build("llama"), size=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for path, p in of(wrapped).items() if "down" in path])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_layers_and_targets_say_where() -> None:
    def places(**more: Any) -> list[str]:
        found: list[str] = bottleneck(build("llama"), size=2, **more).peft_config["default"].target_modules
        return [path.removeprefix("model.layers.") for path in found]

    assert places(layers="layers(1:)") == ["1.mlp.down_proj", "2.mlp.down_proj"]
    assert places(style="houlsby", layers="layers(0:1)") == ["0.self_attn.o_proj", "0.mlp.down_proj"]
    assert places(style="houlsby", layers="attention & layers(-1:)") == ["2.self_attn.o_proj"]
    assert places(targets=["o_proj"], layers="layers(0:2)") == ["0.self_attn.o_proj", "1.self_attn.o_proj"]
    assert places(targets=["layers.1.self_attn", "layers.1.mlp"]) == ["1.self_attn", "1.mlp"]


def test_behind_a_whole_module_the_first_of_its_outputs_is_changed() -> None:
    whole = awake(bottleneck(build("llama"), size=4, targets=["self_attn"]))
    end = awake(bottleneck(build("llama"), size=4, targets=["o_proj"]))
    assert torch.equal(logits(whole), logits(end)) and not torch.equal(logits(whole), logits(build("llama")))


def test_a_mixture_of_experts_takes_an_adapter_behind_all_of_it() -> None:
    shape = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    config = MixtralConfig(vocab_size=VOCABULARY, num_key_value_heads=1, num_local_experts=3, **shape)
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).eval()
    with pytest.raises(
        BadInput, match=r"the mlp in model.layers.0 .* mixture of experts.* `targets`; here there are mlp"
    ):
        bottleneck(model)
    before = logits(model)
    wrapped = bottleneck(model, size=4, targets=["mlp"]).eval()
    assert torch.equal(logits(wrapped), before)
    losses = stepped(wrapped, 20)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("knobs", "error", "said"),
    [
        ({"size": 0}, BadInput, "size >= 1"),
        ({"dropout": 1.0}, BadInput, "dropout < 1"),
        ({"style": "pfeifer"}, UnknownName, "Did you mean 'pfeiffer'"),
        ({"activation": "relv"}, UnknownName, "Did you mean 'relu'"),
        ({"layers": "layers(0:9)"}, UnmatchedSelect, "beyond the model"),
        ({"layers": "layer(0:1)"}, BadInput, "nearest is layers"),
        ({"layers": "embedding"}, BadInput, "no mlp that embedding names"),
        ({"targets": ["down_prj"]}, UnmatchedSelect, "nearest are down_proj"),
        ({"targets": ["mlp", "down_proj"]}, BadInput, "lies within"),
        ({"targets": ["o_proj"], "layers": "embedding"}, BadInput, "none of"),
        ({"targets": []}, BadInput, "nothing would train"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(knobs: dict[str, Any], error: type[Exception], said: str) -> None:
    model = build("llama")
    with pytest.raises(error, match=said):
        bottleneck(model, **knobs)
    assert not any(isinstance(module, BottleneckLayer) for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_it_is_a_method_by_name_and_can_be_planned_without_values() -> None:
    assert methods["bottleneck"] is bottleneck
    with torch.device("meta"):
        model = build("gpt2")
    planned = [
        param for param in inventory(methods.build("bottleneck", {"model": model, "size": 4})) if param.trainable
    ]
    assert len(planned) == 4 * LAYERS


# With the rules ------------------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {
    "l2sp": lambda: [rules["l2sp"](50.0)],
    "ewc": lambda: [rules["ewc"](ROWS[:8], 50.0)],
    "distill": lambda: [rules["replay"](ROWS[:8], share=0.34, labels=False), rules["distill"](4.0)],
    "frozen": lambda: [rules["frozen"]("layers(0:2)")],
}


def governed(rules_: list[Rule]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights before and after a few steps under rules."""
    model = bottleneck(build("llama", dropout=0.1), style="houlsby", size=4, dropout=0.1).train()
    before = values(model)
    torch.manual_seed(7)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    run = Run(model, optimizer, rules_, seed=3)
    run.begin()
    for batch in batches(6):
        run.advance(batch)
    run.end()
    return before, values(model)


@pytest.mark.parametrize("name", list(RULES))
def test_rules_hold_the_adapter_back(name: str) -> None:
    before, free = governed([])
    _, held = governed(RULES[name]())

    def way(after: dict[str, Tensor]) -> float:
        """How far `up` went; no gradient reaches `down` while `up` is zero, so EWC has nothing to say of it."""
        return float(sum((after[path] - before[path]).norm() ** 2 for path in after if "bottleneck_up" in path)) ** 0.5

    assert all(torch.equal(before[path], held[path]) for path in held if "bottleneck_" not in path)
    if name == "frozen":
        still = {path for path in held if torch.equal(before[path], held[path]) and "bottleneck_" in path}
        assert still == {p for p in held if "bottleneck_" in p and (".layers.0." in p or ".layers.1." in p)}
    if name in ("l2sp", "ewc"):
        assert 0 < way(held) < 0.9 * way(free)
    assert way(held) != way(free)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    def host(folder: Path, **more: Any) -> Any:
        model = bottleneck(build("llama", dropout=0.1), size=4, dropout=0.1)
        args = settings(folder, max_steps=4, save_strategy="steps", save_steps=2, **more)
        return trainer(model, args, [rules["l2sp"](5.0)])

    whole = host(tmp_path / "run")
    whole.train()
    resumed = host(tmp_path / "run")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert not moved(resumed.model, values(whole.model))
    loaded = PeftModel.from_pretrained(build("llama", dropout=0.1), tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(p, of(loaded)[path]) for path, p in of(whole.model).items())
