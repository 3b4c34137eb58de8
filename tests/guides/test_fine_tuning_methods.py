"""The guide on fine-tuning methods: its names, and what each of its objects is for."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainerControl, TrainerState, TrainingArguments

import holdfast
from holdfast import load_base
from holdfast._errors import BadInput, TrainingStopped, UnknownName, Unsupported
from holdfast.adapters.head import classifier
from holdfast.llm import (
    Adapter,
    AdapterModel,
    CatastrophicForgettingHandler,
    DataProcessor,
    FineTuningTypes,
    FutureFineTuning,
    GradientAccumulator,
    LearningRateScheduler,
    LoRALayer,
    LoRAModel,
    ModelAnalyzer,
    OverfittingHandler,
    PerformanceMonitor,
    PromptTuning,
    PtuningV2,
    QLoRA,
    TextClassificationFinetuning,
    TextGenerationFinetuning,
    TrainingPipeline,
)
from holdfast.remedies.l2sp import L2SP
from tests.guides.printed import EMPTY, check_signature
from tests.models import ARCHITECTURES, VOCABULARY, WIDTH, build, inputs, quickly
from tests.recipe.small import values

NONE = None
SIGNATURES: dict[str, dict[str, Any]] = {
    "FineTuningTypes": {},
    "FineTuningTypes.full_fine_tuning": {},
    "FineTuningTypes.parameter_efficient_fine_tuning": {},
    "LoRALayer": {"in_dim": EMPTY, "out_dim": EMPTY, "rank": 4},
    "LoRALayer.forward": {"x": EMPTY},
    "LoRAModel": {"base_model": EMPTY, "rank": 4},
    "PromptTuning": {"model": EMPTY, "num_virtual_tokens": 20, "hidden_size": 768},
    "PromptTuning.forward": {"input_ids": EMPTY, "attention_mask": NONE},
    "Adapter": {"input_dim": EMPTY, "hidden_dim": EMPTY},
    "Adapter.forward": {"x": EMPTY},
    "AdapterModel": {"base_model": EMPTY, "hidden_dim": 64},
    "PtuningV2": {"model": EMPTY, "num_virtual_tokens": 20, "num_layers": 12},
    "PtuningV2.forward": {"input_ids": EMPTY, "attention_mask": NONE},
    "QLoRA": {"model": EMPTY, "bits": 4, "rank": 8},
    "TextClassificationFinetuning": {"base_model": EMPTY, "num_classes": EMPTY},
    "TextClassificationFinetuning.train_step": {"batch": EMPTY},
    "TextGenerationFinetuning": {"base_model": EMPTY},
    "TextGenerationFinetuning.generate": {
        "prompt": EMPTY,
        "max_length": 100,
        "num_beams": 4,
        "temperature": 0.7,
        "top_p": 0.9,
    },
    "LearningRateScheduler": {"optimizer": EMPTY, "warmup_steps": 1000, "floor": 0.1},
    "LearningRateScheduler.step": {},
    "GradientAccumulator": {"model": EMPTY, "accumulation_steps": 4},
    "GradientAccumulator.train_step": {"batch": EMPTY},
    "PerformanceMonitor": {},
    "PerformanceMonitor.log_metric": {"name": EMPTY, "value": EMPTY},
    "PerformanceMonitor.plot_metrics": {},
    "ModelAnalyzer": {"model": EMPTY},
    "ModelAnalyzer.analyze_gradients": {},
    "ModelAnalyzer.memory_usage": {},
    "DataProcessor": {"tokenizer": EMPTY, "max_length": 512},
    "DataProcessor.prepare_dataset": {"texts": EMPTY, "labels": NONE},
    "TrainingPipeline": {"model": EMPTY, "optimizer": EMPTY, "scheduler": EMPTY},
    "TrainingPipeline.train_epoch": {"dataloader": EMPTY},
    "TrainingPipeline.train_step": {"batch": EMPTY},
    "CatastrophicForgettingHandler": {"model": EMPTY},
    "CatastrophicForgettingHandler.regularization_loss": {"current_weights": EMPTY},
    "OverfittingHandler": {"model": EMPTY, "patience": 3},
    "OverfittingHandler.check_early_stopping": {"val_loss": EMPTY},
    "FutureFineTuning": {},
    "FutureFineTuning.mixture_of_experts": {},
    "FutureFineTuning.neural_architecture_search": {},
}


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_name_takes_what_the_guide_gives_it(name: str) -> None:
    check_signature(name, SIGNATURES[name])


# What the tests below share -----------------------------------------------------------------------------------------

IDS = inputs(rows=2, length=8)["input_ids"]
BATCH = {"input_ids": IDS, "labels": IDS}


def digests(model: nn.Module) -> dict[str, str]:
    """What every tensor of a model holds, by the place of its storage: wrapping a model changes names, not these."""
    return {
        str(p.data_ptr()): hashlib.sha256(p.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for p in model.parameters()
    }


def fit(model: nn.Module, batch: dict[str, Tensor], *, steps: int = 40, rate: float = 2e-2) -> list[float]:
    """The losses of so many steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# Methods ------------------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[..., Any]] = {
    "LoRAModel": LoRAModel,
    "PromptTuning": lambda model, **more: PromptTuning(model, 8, **more),
    "AdapterModel": lambda model, **more: AdapterModel(model, 8, **more),
    "PtuningV2": lambda model, **more: PtuningV2(model, 8, **more),
}
UNTAUGHT = math.log(VOCABULARY)
"""What a model that knows nothing loses at each token, in nats."""

BASES: dict[str, tuple[Callable[[], Any], float]] = {
    "tiny": (lambda: load_base("tiny").model, 0.3),
    "gpt2": (lambda: build("gpt2"), 0.995),
}
"""Models, and the part of its first loss that a method has to come below; a random one gives little to work on."""


@pytest.mark.parametrize("on", BASES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_moves_nothing_else(name: str, on: str, tmp_path: Path) -> None:
    """Read back, into an object of ours and by PEFT alone, it says the same."""
    make, bound = BASES[on]
    base = make()
    own = digests(base)
    tuned = METHODS[name](base, seed=1)
    losses = fit(tuned, BATCH, steps=30, rate=0.1 if name.startswith("P") else 1e-2)
    assert losses[0] > 4 and losses[-1] < bound * losses[0]
    after = digests(tuned)
    assert {place: after[place] for place in own} == own
    trained = {str(p.data_ptr()) for p in tuned.parameters() if p.requires_grad}
    assert trained and set(after) - set(own) == trained
    tuned.eval()
    said = tuned(IDS).logits
    assert said.shape[:2] == IDS.shape
    tuned.save_pretrained(tmp_path / "adapter")
    again = METHODS[name](make(), seed=2)
    again.load(tmp_path / "adapter")
    again.eval()
    assert torch.equal(again(IDS).logits, said)
    theirs = PeftModel.from_pretrained(make(), tmp_path / "adapter").eval()
    assert torch.equal(theirs(input_ids=IDS).logits[:, -IDS.shape[1] :], said)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_refuses_what_it_cannot_use(name: str, tmp_path: Path) -> None:
    tuned = METHODS[name](build("llama"))
    with pytest.raises(BadInput, match="carries an adapter already"):
        METHODS[name](tuned.adapted)
    with pytest.raises(BadInput, match="carries an adapter already"):
        METHODS[name](LoRAModel(build("llama")).base_model)
    with pytest.raises(BadInput, match="holds no adapter"):
        tuned.load(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="other things"):
        tuned.save_pretrained(tmp_path)
    other = next(n for n in METHODS if n != name)
    METHODS[other](build("llama")).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="does not fit"):
        tuned.load(tmp_path / "other")


@pytest.mark.parametrize("name", ["LoRAModel", "AdapterModel"])
@pytest.mark.parametrize("arch", quickly(["llama", "t5"], ARCHITECTURES))
def test_layers_start_as_the_base_on_every_architecture(name: str, arch: str) -> None:
    base, batch = build(arch), inputs()
    said = base(**batch).logits
    tuned = METHODS[name](base)
    assert torch.allclose(tuned(**batch).logits, said, atol=1e-5)
    assert all(p.grad is not None for p in _taught(tuned, batch))


def _taught(model: nn.Module, batch: dict[str, Tensor]) -> Iterator[nn.Parameter]:
    model(**batch).loss.backward()
    yield from (p for p in model.parameters() if p.requires_grad)


def test_full_fine_tuning_trains_every_weight() -> None:
    model = build("llama").requires_grad_(False)
    assert FineTuningTypes.full_fine_tuning(model) is model
    before = copies(model)
    losses = fit(model, BATCH, steps=20)
    assert losses[-1] < 0.5 * UNTAUGHT
    assert moved(model, before) == set(before)


def test_parameter_efficient_fine_tuning_trains_an_adapter_alone() -> None:
    with_default = FineTuningTypes.parameter_efficient_fine_tuning()
    named = [name for name, p in with_default.named_parameters() if p.requires_grad]
    assert named and all("lora_" in name for name in named)
    assert all(p.requires_grad for p in FineTuningTypes.full_fine_tuning().parameters())
    ia3 = FineTuningTypes.parameter_efficient_fine_tuning(build("llama"), "ia3")
    assert all("ia3_" in name for name, p in ia3.named_parameters() if p.requires_grad)
    with pytest.raises(UnknownName, match="lora"):
        FineTuningTypes.parameter_efficient_fine_tuning(build("llama"), "lorra")


def test_a_lora_layer_is_pefts_update() -> None:
    linear = nn.Linear(6, 5)
    peft = get_peft_model(nn.Sequential(linear), LoraConfig(r=3, lora_alpha=6, target_modules=["0"]))
    theirs: Any = peft.base_model.model[0]
    nn.init.normal_(theirs.lora_B["default"].weight)
    ours = LoRALayer(6, 5, 3, alpha=6)
    assert not ours(torch.ones(2, 6)).any()
    ours.down.weight.data.copy_(theirs.lora_A["default"].weight)
    ours.up.weight.data.copy_(theirs.lora_B["default"].weight)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(linear(x) + ours(x), peft(x), atol=1e-6)
    with pytest.raises(BadInput, match="at most 5"):
        LoRALayer(6, 5, 6)


def test_lora_layers_are_those_of_peft_and_add_what_the_model_adds() -> None:
    tuned = LoRAModel(build("gpt2"), rank=2)
    theirs = get_peft_model(build("gpt2"), LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=True))
    named = [name.removeprefix("base_model.model.") for name, m in theirs.named_modules() if hasattr(m, "lora_A")]
    assert list(tuned.lora_layers) == named
    fit(tuned, BATCH, steps=3)
    path = named[1]
    layer, x = tuned.base_model.get_submodule(path), torch.randn(3, WIDTH)
    assert torch.allclose(layer.base_layer(x) + tuned.lora_layers[path](x), layer(x), atol=1e-6)
    assert layer.lora_A["default"].weight is tuned.lora_layers[path].down.weight


def test_adapters_add_what_the_model_adds() -> None:
    tuned = AdapterModel(build("llama"), 4)
    fit(tuned, BATCH, steps=3)
    path, adapter = next(iter(tuned.adapters.items()))
    layer, x = tuned.base_model.get_submodule(path), torch.randn(3, WIDTH)
    assert torch.allclose(adapter(layer.base_layer(x)), layer(x), atol=1e-6)
    assert not torch.allclose(layer.base_layer(x), layer(x), atol=1e-3)
    assert len(AdapterModel(build("llama"), 4, style="houlsby").adapters) == 2 * 3
    alone = Adapter(5, 3)
    assert torch.equal(alone(torch.ones(5)), torch.ones(5))
    with pytest.raises(BadInput, match="at least one"):
        Adapter(5, 0)


def test_prompts_have_the_models_shape() -> None:
    tuned = PromptTuning(build("llama"), 5, WIDTH)
    assert isinstance(tuned.soft_prompts, nn.Parameter) and tuned.soft_prompts.shape == (5, WIDTH)
    assert [p.shape for p in PtuningV2(build("llama"), 4, 3).prompt_encoders] == [(4, 2 * WIDTH // 2)] * 3
    assert PromptTuning(build("llama")).soft_prompts.shape == (20, WIDTH)
    with pytest.raises(BadInput, match="give 16"):
        PromptTuning(build("llama"), hidden_size=768)
    with pytest.raises(BadInput, match="give 3"):
        PtuningV2(build("llama"), num_layers=12)
    with pytest.raises(Unsupported, match="classifier"):
        PromptTuning(build("bert"))


def test_a_soft_prompt_is_what_stands_before_the_text() -> None:
    """The logits and the loss are those of the bare model on the prompt's embeddings and the text's."""
    bare, tuned = build("llama"), PromptTuning(build("llama"), 5).eval()
    embedded = torch.cat([tuned.soft_prompts.expand(2, -1, -1), bare.get_input_embeddings()(IDS)], dim=1)
    labels = torch.cat([torch.full((2, 5), -100), IDS], dim=1)
    theirs, ours = bare(inputs_embeds=embedded, labels=labels), tuned(IDS, torch.ones_like(IDS), labels=IDS)
    assert torch.allclose(ours.logits, theirs.logits[:, 5:], atol=1e-6)
    assert torch.allclose(ours.loss, theirs.loss, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_learns_and_its_base_stays(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_base("tiny")
    ids = torch.tensor([base.tokenizer("The moon is made of cheese, said the sailor.")["input_ids"]])
    given, tuned = digests(base.model), QLoRA(base.model, bits)
    still = {n: p.detach().clone() for n, p in tuned.named_parameters() if not p.requires_grad}
    assert any(p.dtype == {4: torch.uint8, 8: torch.int8}[bits] for p in still.values())
    losses = fit(tuned, {"input_ids": ids, "labels": ids}, steps=8)
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(p, still[n]) for n, p in tuned.named_parameters() if n in still)
    assert digests(base.model) == given
    assert len(tuned.lora) == 7 * 5


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", quickly(["llama"], ["llama", "gpt2", "bert"]))
def test_classification_learns_by_heart_and_is_read_back(arch: str, tmp_path: Path) -> None:
    ids = torch.randint(3, VOCABULARY, (6, 8), generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 1, 2, 2, 1, 0])
    base = build(arch)
    own = {name: p.detach().clone() for name, p in base.base_model.named_parameters()}
    task = TextClassificationFinetuning(base, 3, seed=1)
    task.optimizer.param_groups[0]["lr"] = 2e-2
    losses = [task.train_step((ids, classes)) for _ in range(40)]
    assert losses[0] == pytest.approx(math.log(3), rel=0.2) and losses[-1] < 0.1
    assert torch.equal(task.predict(ids), classes)
    kept = {name.replace(".base_layer", ""): p for name, p in task.model.base_model.base_model.named_parameters()}
    assert all(torch.equal(p, kept[name]) for name, p in own.items())
    task.model.eval()
    said = task.model(ids).logits
    task.model.save_pretrained(tmp_path / "adapter")
    fresh = classifier(build(arch), task.names, seed=1)
    theirs = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    assert torch.equal(theirs(input_ids=ids).logits, said)
    with pytest.raises(BadInput, match="two classes"):
        TextClassificationFinetuning(build(arch), 1)
    with pytest.raises(BadInput, match=r"functools\.partial"):
        TextClassificationFinetuning(build(arch), 3, optimizer=sgd(base))  # type: ignore[arg-type]


def test_classification_of_texts_of_different_lengths() -> None:
    base = load_base("tiny")
    texts = ["Lily was happy and laughed.", "Tom cried.", "They laughed and were very happy all day.", "He was sad."]
    data = DataProcessor(base.tokenizer).prepare_dataset(texts, [1, 0, 1, 0])
    task = TextClassificationFinetuning(base.model, 2)
    task.optimizer.param_groups[0]["lr"] = 5e-3
    losses = [task.train_step(batch) for _ in range(12) for batch in DataLoader(data, batch_size=4)]
    assert losses[-1] < 0.5 * losses[0]
    assert task.predict({"input_ids": data.tensors[0], "attention_mask": data.tensors[1]}).tolist() == [1, 0, 1, 0]
    alone = [int(task.predict(row[mask.bool()][None])) for row, mask, _ in data]
    assert alone == [1, 0, 1, 0]


def test_generation_writes_as_the_guide_asks_and_learns() -> None:
    base = load_base("tiny")
    task = TextGenerationFinetuning(base.model)
    told = task.generate("Once upon a time", max_length=20)
    assert told.startswith("Once upon a time") and len(told) > len("Once upon a time")
    assert len(base.tokenizer(told)["input_ids"]) <= 20
    assert told == task.generate("Once upon a time", max_length=20)
    hot = {task.generate("Once", 20, num_beams=1, temperature=2.0, top_p=1.0, seed=seed) for seed in range(3)}
    assert len(hot) == 3
    with pytest.raises(BadInput, match="nothing to write"):
        task.generate("Once upon a time", max_length=3)
    task.optimizer.param_groups[0]["lr"] = 2e-3
    losses = [task.train_step(["The moon is made of cheese."]) for _ in range(15)]
    assert losses[-1] < 0.3 * losses[0]
    assert task.generate("The moon", 20, num_beams=1, temperature=0).startswith("The moon is made of cheese")
    with pytest.raises(BadInput, match="tokenizer="):
        TextGenerationFinetuning(build("llama")).generate("Once")


# Training -----------------------------------------------------------------------------------------------------------


def guides_rate(step: int, base: float, warmup: int, total: int) -> float:
    """The guide's formula, with what it forgot."""
    if step < warmup:
        return base * min(1.0, float(step + 1) / warmup)
    progress = float(step - warmup) / (total - warmup)
    return base * max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))


@pytest.mark.parametrize(("warmup", "total"), [(4, 20), (0, 7), (1, 2)])
def test_the_learning_rate_is_the_guides_formula(warmup: int, total: int) -> None:
    optimizer = sgd(nn.Linear(2, 2), 0.3)
    scheduler = LearningRateScheduler(optimizer, warmup, total)
    for step in range(total):
        assert scheduler.current_step == step
        assert optimizer.param_groups[0]["lr"] == pytest.approx(guides_rate(step, 0.3, warmup, total), rel=1e-12)
        optimizer.step()
        scheduler.step()
    for _ in range(total):  # where the guide's cosine would rise again
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)


def test_a_schedule_goes_on_from_its_state_and_refuses_nonsense() -> None:
    optimizer, other = sgd(nn.Linear(2, 2), 0.3), sgd(nn.Linear(2, 2), 0.3)
    one, two = LearningRateScheduler(optimizer, 3, 12), LearningRateScheduler(other, 3, 12)
    for _ in range(5):
        optimizer.step()
        one.step()
    other.load_state_dict(optimizer.state_dict())
    two.load_state_dict(one.state_dict())
    for scheduler, stepped in ((one, optimizer), (two, other)):
        stepped.step()
        scheduler.step()
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(guides_rate(6, 0.3, 3, 12))
    assert LearningRateScheduler(sgd(nn.Linear(2, 2))).total_steps == 10_000
    with pytest.raises(BadInput, match="total_steps"):
        LearningRateScheduler(optimizer, 10, 10)


def test_a_trainer_takes_the_schedule(tmp_path: Path) -> None:
    model = LoRAModel(build("llama")).adapted
    optimizer = sgd(model, 0.5)
    args = TrainingArguments(
        str(tmp_path), max_steps=4, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    pair = (optimizer, LearningRateScheduler(optimizer, 2, 6))
    monitor = PerformanceMonitor()
    args.logging_steps = 1
    callbacks = [monitor.callback()]
    holdfast.Trainer(
        model=model, args=args, train_dataset=rows, optimizers=pair, callbacks=callbacks, sinks=[monitor.sink]
    ).train()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(guides_rate(4, 0.5, 2, 6))
    assert monitor.steps["loss"][:2] in ([1, 1], [1, 2]) and len(monitor.metrics["learning_rate"]) >= 4


def unequal(rows: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Micro-batches of one row with 3, 5, 7, … tokens to learn, padded to one length."""
    ids = torch.randint(3, VOCABULARY, (rows, 12), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(12) < torch.tensor([[3 + 2 * (i % 4)] for i in range(rows)])
    labels = ids.masked_fill(~mask, -100)
    return [
        {"input_ids": ids[i : i + 1], "attention_mask": mask[i : i + 1].long(), "labels": labels[i : i + 1]}
        for i in range(rows)
    ]


@pytest.mark.parametrize("make", [lambda: build("llama"), lambda: PromptTuning(build("gpt2"), 4)])
def test_accumulation_is_one_large_batch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    parts = unequal(6)
    model = make()
    accumulator = GradientAccumulator(model, 4, sgd(model))
    for part in parts:
        accumulator.train_step(part)
    assert accumulator.current_step == 6 and accumulator.waiting == 2
    assert accumulator.flush() and not accumulator.flush()
    torch.manual_seed(0)
    other = make().train()
    optimizer = sgd(other)
    for window in (parts[:4], parts[4:]):
        optimizer.zero_grad()
        other(**{key: torch.cat([part[key] for part in window]) for key in window[0]}).loss.backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_accumulation_takes_the_guides_model_and_stops_at_nan() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, batch: Tensor) -> Tensor:
            return ((batch * self.weight).sum(-1) ** 2).mean()

    ours, theirs = Own(), Own()
    accumulator, rows = GradientAccumulator(ours, 2, sgd(ours)), torch.randn(5, 3)
    accumulator.train_step(rows[:1])
    accumulator.train_step(rows[1:])
    optimizer = sgd(theirs)
    theirs(rows).backward()
    optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    with pytest.raises(TrainingStopped, match="nan"):
        accumulator.train_step(rows * math.nan)
    assert not accumulator.flush() and torch.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert GradientAccumulator(LoRAModel(build("llama"))).optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_data_are_cut_padded_and_masked() -> None:
    tokenizer = load_base("tiny").tokenizer
    texts = ["Once upon a time there was a dog.", "Lily.", "word " * 2000]
    before = len(tokenizer)
    data = DataProcessor(tokenizer).prepare_dataset(texts, [0.5, 1.5, 2.5])
    ids, mask, labels = data.tensors
    assert isinstance(data, TensorDataset) and ids.shape == mask.shape == (3, 512)
    assert labels.tolist() == [0.5, 1.5, 2.5] and len(tokenizer) == before and tokenizer.pad_token_id is None
    for i, text in enumerate(texts):
        whole = tokenizer(text, truncation=True, max_length=512)["input_ids"]
        assert ids[i][mask[i].bool()].tolist() == whole and mask[i].sum() == len(whole)
    assert len(DataProcessor(tokenizer).prepare_dataset(texts).tensors) == 2
    tokenizer.padding_side = "left"
    assert DataProcessor(tokenizer, max_length=9).prepare_dataset(texts[:2]).tensors[1][1].tolist() == sorted(
        DataProcessor(tokenizer, max_length=9).prepare_dataset(texts[:2]).tensors[1][1].tolist()
    )
    with pytest.raises(BadInput, match="one for each"):
        DataProcessor(tokenizer).prepare_dataset(texts, [1])
    with pytest.raises(BadInput, match="list of strings"):
        DataProcessor(tokenizer).prepare_dataset([])
    tokenizer.add_bos_token = False
    with pytest.raises(BadInput, match="Text 1 is empty"):
        DataProcessor(tokenizer).prepare_dataset(["a", ""])


def test_an_epoch_learns_from_texts_and_steps_the_schedule() -> None:
    base = load_base("tiny")
    texts = [f"Sailor number {i} said that the moon is made of cheese." for i in range(6)]
    loader = DataLoader(DataProcessor(base.tokenizer).prepare_dataset(texts), batch_size=2)
    model = LoRAModel(base.model, 4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    scheduler = LearningRateScheduler(optimizer, 2, 12)
    pipeline = TrainingPipeline(model, optimizer, scheduler)
    losses = [pipeline.train_epoch(loader) for _ in range(4)]
    assert losses[0] > 1.5 and losses[-1] < 0.5
    assert scheduler.current_step == 12
    with pytest.raises(BadInput, match="no batch"):
        pipeline.train_epoch([])


def test_an_epoch_is_the_loop_that_the_guide_means() -> None:
    """Masked places bear no loss, the loss is the mean of the steps, and a step may be one's own."""
    rows = unequal(4)
    loader = DataLoader(TensorDataset(*(torch.cat([r[k] for r in rows]) for k in ("input_ids", "attention_mask"))))
    ours, theirs = build("llama"), build("llama")
    mean = TrainingPipeline(ours, sgd(ours), None).train_epoch(loader)
    optimizer, losses = sgd(theirs), []
    for row in rows:
        loss = theirs(**row).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert mean == pytest.approx(sum(losses) / 4, rel=1e-6)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))

    class Own(TrainingPipeline):
        def train_step(self, batch: Any) -> float:
            return float(len(batch[0]))

    assert Own(ours, sgd(ours), None).train_epoch(loader) == 1.0


def test_an_epoch_keeps_rules_and_stops_at_nan() -> None:
    ours, theirs = build("llama"), build("llama")
    with TrainingPipeline(ours, sgd(ours), None, rules=[L2SP(3.0)]) as pipeline:
        for _ in range(2):
            pipeline.train_epoch([BATCH, BATCH])
    optimizer = sgd(theirs)
    with holdfast.attach([L2SP(3.0)], theirs.train(), optimizer) as run:
        for _ in range(4):
            (batch,) = run.batch([BATCH])
            outputs = theirs(**batch)
            (outputs.loss + run.penalty(batch, outputs)).backward()
            optimizer.step()
            optimizer.zero_grad()
            run.after()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    with torch.no_grad():
        ours.get_output_embeddings().weight[5] = math.nan
    before = copies(ours)
    with pytest.raises(TrainingStopped, match="nan"):
        TrainingPipeline(ours, sgd(ours), None).train_epoch([BATCH])
    assert all(torch.equal(p.nan_to_num(), before[n].nan_to_num()) for n, p in ours.named_parameters())
    with pytest.raises(BadInput, match="labels"):
        TrainingPipeline(build("bert"), sgd(ours), None).train_epoch([{"input_ids": IDS}])


def test_rules_see_through_our_wrapper() -> None:
    """An anchor on LoRA's products holds them back as it does in PEFT's own model, to the bit."""
    ours, theirs = (LoRAModel(build("llama"), seed=3) for _ in range(2))
    for model in (ours, theirs.adapted):
        with TrainingPipeline(model, sgd(model, 1.0), None, rules=[L2SP(3.0)]) as pipeline:
            pipeline.train_epoch([BATCH] * 3)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert any(layer.up.weight.abs().sum() > 0 for layer in ours.lora_layers.values())


# Watching -----------------------------------------------------------------------------------------------------------


def test_metrics_are_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = PerformanceMonitor()
    with pytest.raises(BadInput, match="log_metric"):
        monitor.plot_metrics()
    for i in range(5):
        monitor.log_metric("loss", torch.tensor(5.0 - i))
    monitor.log_metric("准确率", math.nan)
    assert monitor.metrics["loss"] == [5.0, 4.0, 3.0, 2.0, 1.0] and monitor.steps["loss"] == [0, 1, 2, 3, 4]
    drawn = monitor.plot_metrics(tmp_path / "figures" / "run.png")
    assert drawn is not None and drawn.read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "Agg")
    assert monitor.plot_metrics() == Path("metrics.png") and Path("metrics.png").is_file()
    shown: list[str] = []
    monkeypatch.setattr("matplotlib.pyplot.get_backend", lambda: "TkAgg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append("shown"))
    assert monitor.plot_metrics() is None and shown == ["shown"]
    with pytest.raises(BadInput, match="one number"):
        monitor.log_metric("loss", torch.ones(2))


def test_a_monitor_hears_of_forgetting_and_of_any_trainer() -> None:
    monitor = PerformanceMonitor()
    monitor.sink({"step": 4, "kind": "probe", "text": "stories", "rise": 0.25, "low": 0.2})
    monitor.sink({"step": 4, "kind": "learn", "text": "moon", "gain": 1.5})
    monitor.sink({"step": 5, "kind": "note", "text": "nothing to draw"})
    state, control = TrainerState(global_step=7), TrainerControl()
    monitor.callback().on_log(None, state, control, logs={"eval_loss": 2.0, "epoch": 0.5, "model": "tiny"})
    assert dict(monitor.metrics) == {"forgetting/stories": [0.25], "gain/moon": [1.5], "eval_loss": [2.0]}
    assert monitor.steps["eval_loss"] == [7]


def test_gradients_are_told_by_name_and_by_layer(caplog: pytest.LogCaptureFixture) -> None:
    model = build("llama")
    analyzer = ModelAnalyzer(model)
    assert analyzer.analyze_gradients() == []
    model.get_input_embeddings().weight.requires_grad_(False)
    model(**BATCH).loss.backward()
    told = {entry["name"]: entry["norm"] for entry in analyzer.analyze_gradients()}
    named = {n: p for n, p in model.named_parameters() if p.grad is not None}
    assert told == pytest.approx({n: float(p.grad.norm()) for n, p in named.items()})
    layers = analyzer.gradients_by_layer()
    assert list(layers)[:2] == ["layers.0 attention", "layers.0 mlp"]
    whole = math.sqrt(sum(norm**2 for norm in told.values()))
    assert math.sqrt(sum(norm**2 for norm in layers.values())) == pytest.approx(whole, rel=1e-5)
    name, parameter = next(iter(named.items()))
    parameter.grad[0] = math.inf
    with caplog.at_level(logging.WARNING, "holdfast"):
        analyzer.analyze_gradients()
    assert analyzer.not_finite() == [name] and name in caplog.text


def test_memory_is_told_in_bytes() -> None:
    model = build("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    numbers = sum(p.numel() for p in model.parameters())
    before = ModelAnalyzer(model).memory_usage()
    assert before["parameters"] == 4 * numbers and before["gradients"] == before["optimizer"] == 0
    assert before["cached"] >= before["allocated"] > 10 * 2**20
    model(**BATCH).loss.backward()
    optimizer.step()
    after = ModelAnalyzer(model).memory_usage(optimizer)
    assert after["gradients"] == 4 * numbers
    assert after["optimizer"] == 8 * numbers + 4 * len(list(model.parameters()))


# Troubles -----------------------------------------------------------------------------------------------------------


def test_the_distance_to_the_old_weights_and_its_gradient() -> None:
    model = build("llama")
    handler = CatastrophicForgettingHandler(model)
    assert float(handler.regularization_loss(model).detach()) == 0.0
    old = copies(model)
    fit(model, BATCH, steps=3)
    loss = handler.regularization_loss(dict(model.named_parameters()))
    assert torch.equal(loss, handler.regularization_loss(model.named_parameters()))
    loss.backward()
    total = sum(float((p.detach() - old[name]).square().mean()) for name, p in model.named_parameters())
    model.zero_grad()
    handler.regularization_loss(model).backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, 2 * (p.detach() - old[name]) / p.numel(), atol=1e-7)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    with pytest.raises(UnknownName, match="norm"):
        handler.regularization_loss({"model.norm.weigth": torch.ones(WIDTH)})
    with pytest.raises(BadInput, match="another weight"):
        handler.regularization_loss({"model.norm.weight": torch.ones(1)})
    with pytest.raises(BadInput, match="no weights"):
        handler.regularization_loss({})


def test_both_ways_of_not_forgetting_hold_weights_back() -> None:
    def distance(strength: float, ruled: bool) -> float:
        model = build("llama")
        handler = CatastrophicForgettingHandler(model)

        class Held(TrainingPipeline):
            def train_step(self, batch: Any) -> float:
                loss = model(**batch).loss + strength * handler.regularization_loss(model)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                return float(loss.detach())

        kind: Any = TrainingPipeline if ruled else Held
        with kind(model, sgd(model), None, rules=[handler.rule(strength)] if ruled else []) as pipeline:
            pipeline.train_epoch([BATCH] * 10)
        return float(handler.regularization_loss(model).detach())

    assert distance(5.0, ruled=True) < 0.5 * distance(0.0, ruled=True)
    assert distance(100.0, ruled=False) < 0.9 * distance(0.0, ruled=False)


def test_early_stopping_is_the_guides_and_gives_the_best_weights_back() -> None:
    model = build("llama")
    handler = OverfittingHandler(model)
    with pytest.raises(BadInput, match="go back to"):
        handler.restore_best()
    assert not handler.check_early_stopping(2.0)
    assert not handler.check_early_stopping(torch.tensor(1.0))
    best = copies(model)
    said = []
    for loss in (1.5, math.nan, 1.0):
        fit(model, BATCH, steps=1)
        said.append(handler.check_early_stopping(loss))
    assert said == [False, False, True] and moved(model, best)
    assert handler.restore_best() == 1.0 and not moved(model, best)
    other = OverfittingHandler(model, 1, min_delta=0.1)
    assert [other.check_early_stopping(loss) for loss in (1.0, 0.95)] == [False, True]
    with pytest.raises(BadInput, match="patience"):
        OverfittingHandler(model, 0)


# Future -------------------------------------------------------------------------------------------------------------


def test_a_mixture_starts_as_the_base_learns_and_is_read_back(tmp_path: Path) -> None:
    base = build("llama")
    said, own = base(IDS).logits, digests(base)
    mixture = FutureFineTuning.mixture_of_experts(base, 3, rank=2, seed=1).eval()
    assert torch.allclose(mixture(IDS).logits, said, atol=1e-6)
    losses = fit(mixture, BATCH)
    assert losses[-1] < 0.95 * losses[0]
    after = digests(mixture)
    assert {place: after[place] for place in own} == own
    learnt = mixture(IDS).logits
    weights = mixture.weights
    assert weights is not None and weights.shape == (*IDS.shape, 7 * 3, 3)
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)
    assert weights.std(dim=1).max() > 1e-3  # the router listens to the text
    mixture.save_pretrained(tmp_path / "mixture")
    again = FutureFineTuning.mixture_of_experts(build("llama"), 3, rank=2, seed=2).eval()
    again.load(tmp_path / "mixture")
    assert torch.equal(again(IDS).logits, learnt)
    with pytest.raises(BadInput, match="other experts"):
        FutureFineTuning.mixture_of_experts(build("llama"), 2).load(tmp_path / "mixture")


@pytest.mark.slow
def test_a_mixture_of_trained_experts_teaches_its_router_alone(tmp_path: Path) -> None:
    experts = [tmp_path / "a", tmp_path / "b"]
    for i, folder in enumerate(experts):
        tuned = LoRAModel(build("llama"), seed=i)
        fit(tuned, {k: v[i : i + 1] for k, v in BATCH.items()})
        tuned.save_pretrained(folder)
    mixture = FutureFineTuning.mixture_of_experts(build("llama"), experts, top=1)
    assert all("classifier" in name for name, p in mixture.named_parameters() if p.requires_grad)
    mixture(IDS)
    assert mixture.weights is not None and bool(((mixture.weights > 0).sum(-1) == 1).all())
    with pytest.raises(BadInput, match="two experts"):
        FutureFineTuning.mixture_of_experts(build("llama"), 1)
    with pytest.raises(BadInput, match="holds no adapter"):
        FutureFineTuning.mixture_of_experts(build("llama"), [tmp_path, tmp_path])
    for arch in ("gpt2", "opt", "t5"):
        with pytest.raises(Unsupported, match="Llama"):
            FutureFineTuning.mixture_of_experts(build(arch))
    LoRAModel(build("gpt2")).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="another kind of base"):
        FutureFineTuning.mixture_of_experts(build("llama"), [tmp_path / "a", tmp_path / "other"])


@pytest.mark.slow
def test_architectures_are_searched(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    recipe = values(tmp_path)
    recipe["keep"] = {"rows": 32, "probe": "none", "suites": recipe["keep"]["suites"]}
    recipe["train"] |= {"max_steps": 2}
    found = FutureFineTuning.neural_architecture_search(recipe, trials=2, minutes=5, folder=tmp_path / "search")
    assert len(found.candidates) == 2 and (tmp_path / "search" / "best.yaml").is_file()
