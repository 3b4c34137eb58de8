"""The contract: what every training method has to keep, whoever wrote it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch import Tensor, nn
from transformers import TrainingArguments, default_data_collator

from holdfast._errors import BadInput, HoldfastError, UnknownName, UnmatchedSelect
from holdfast.adapters.method import GIVEN, methods
from holdfast.adapters.named import OURS as OWN_FILES
from holdfast.adapters.wrapping import Unplanned
from holdfast.base import load_base
from holdfast.before import unprompted
from holdfast.params.plan import from_config
from holdfast.run import Run
from holdfast.training import Trainer
from tests.models import VOCABULARY, build, inputs, quickly

ROWS = [{"input_ids": ids, "labels": list(ids)} for ids in torch.randint(3, VOCABULARY, (16, 12)).tolist()]
BATCH = {k: torch.tensor([row[k] for row in ROWS[:8]]) for k in ROWS[0]}

SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {},
    "lora rslora dora": {"rslora": True, "dora": True},
    "lora pissa": {"init": "pissa"},
    "lora olora": {"init": "olora"},
    "lora eva": {"init": "eva", "targets": "attention"},
    "lora gaussian": {"init": "gaussian", "layers": "layers(0:1)", "alpha": 32},
    "adalora": {"rank": 2},
    "prompt": {"tokens": 4},
    "ptuning": {"tokens": 4, "hidden": 16},
    "ptuning2": {"tokens": 4},
    "ptuning2 projected": {"tokens": 4, "projection": True, "hidden": 16},
    "ia3": {},
    "ln": {},
    "shira": {"rank": 4},
    "osf": {},
    "bottleneck": {"size": 8},
    "beft": {},
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 8},
    "deft": {},
    "delora": {"r": 4},
    "fourierft": {"n_frequency": 100},
    "frod": {},
    "glora": {},
    "gralora": {"r": 4, "gralora_k": 2},
    "hira": {"r": 4},
    "hra": {"r": 4},
    "lily": {"r": 4},
    "loha": {"r": 4},
    "lokr": {"r": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4, "r": 0},
    "peanut": {"r": 4},
    "psoft": {"r": 4},
    "pvera": {"r": 4},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "tinylora": {},
    "trainable_tokens": {"token_indices": [3, 4, 5]},
    "unilora": {},
    "vblora": {"vector_length": 8, "num_vectors": 16, "topk": 2},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 100},
    "adamss": {},
    "supertuning": {},
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
}
OTHER_INPUTS = {"cartridge", "cpt", "multitask_prompt_tuning", "poly", "shadow", "xlora"}
"""Methods of PEFT that need more than a model and rows: task numbers, other adapters, a second model, a first pass."""

OURS = ("full", "lora", "adalora", "prompt", "ptuning", "ia3", "ln", "shira", "osf", "bottleneck")
EACH = quickly([case for case in SETTINGS if case.startswith(OURS) and case != "lora eva"], [*SETTINGS])
"""All of them; those that are PEFT's alone, and EVA, only where all tests are run."""

REWRITING = {"full", "osf", "lora pissa", "lora olora"}
"""Methods that put other values in the place of the base's weights at the start, or train those weights."""
MORE = {"prompt", "ptuning", "ptuning2", "ptuning2 projected"}
"""Methods that change what the model says from the start."""
RATE = {
    "full": 1e-2,
    "prompt": 0.1,
    "ptuning2": 0.1,
    "adaption_prompt": 0.3,
    "ia3": 0.1,
    "ln": 0.1,
    "trainable_tokens": 0.1,
}


def test_every_method_of_the_installed_peft_has_an_example() -> None:
    assert {name.split()[0] for name in SETTINGS} | OTHER_INPUTS | {"qlora", "rows"} == set(methods.names())
    assert len(methods.names()) > 40 and {name.lower() for name in OWN_FILES} & set(methods.names())


def made(case: str, model: nn.Module | None = None, seed: int = 0) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"seed": seed, "steps": 8, "rows": ROWS}
        return methods.apply(case.split()[0], model or build("llama"), SETTINGS[case], **given)


def base_of(model: Any) -> dict[str, Tensor]:
    """The base's own tensors in a wrapped model, by the paths that they have in the bare one."""
    names = {n.replace(".base_layer", "").replace("base_model.model.", "", 1): p for n, p in model.named_parameters()}
    bare = dict(build("llama").named_parameters())
    return {n: p for n, p in names.items() if n in bare}


@pytest.mark.parametrize("case", EACH)
def test_it_starts_as_the_base_learns_and_leaves_the_base_alone(case: str) -> None:
    model = made(case).train()
    start = build("llama")
    with torch.no_grad():
        there, before = model.eval()(**inputs()).logits, start(**inputs()).logits
        assert there.shape == before.shape
        assert torch.allclose(there, before, atol=1e-3) != (case in MORE)
        with unprompted(model):
            assert torch.allclose(model(**inputs()).logits, before, atol=1e-3)
    base = {n: p.detach().clone() for n, p in base_of(model).items()}
    trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    losses = learnt(case, model)
    assert losses[-1] < losses[0] - 1e-3
    moved = {n for n, p in model.named_parameters() if n in trained and not torch.equal(p, trained[n])}
    assert moved
    assert case in REWRITING or all(torch.equal(p, base[n]) for n, p in base_of(model).items())


def learnt(case: str, model: Any, steps: int = 8) -> list[float]:
    """The loss on a batch, in evaluation, before and after some steps on it."""
    name = case.split()[0]
    rate = RATE.get(name, 0.03)
    companion = methods.traits(name).companion
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    run = Run(model, optimizer, [] if companion is None else [companion({})], total=steps)
    run.begin()
    found = []
    for _ in range(steps):
        found.append(run.advance(dict(BATCH)))
    run.end()
    with torch.no_grad():
        return [found[0], float(model.eval()(**BATCH).loss)]


@pytest.mark.parametrize("case", [case for case in EACH if case != "full"])
def test_what_was_saved_peft_alone_loads_with_equal_logits(case: str, tmp_path: Path) -> None:
    model = made(case)
    learnt(case, model, steps=3)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file() and (tmp_path / "adapter_model.safetensors").is_file()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(77)  # nothing may depend on what is drawn while loading
        again = PeftModel.from_pretrained(build("llama"), tmp_path).eval()
        ids = inputs()["input_ids"]
        expected, found = model.eval()(input_ids=ids).logits, again(input_ids=ids).logits[:, -ids.shape[1] :]
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("case", ["lora", "adalora", "prompt", "ptuning", "shira", "vera", "bottleneck"])
def test_the_seed_alone_says_what_is_drawn(case: str) -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed + 5)
        state = torch.get_rng_state()
        model = made(case, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        learnt(case, model, steps=2)
        return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if p.requires_grad])

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(one, again) and (len(one) != len(other) or not torch.equal(one, other))


@pytest.mark.parametrize("case", EACH)
def test_a_model_without_values_says_what_would_train(case: str) -> None:
    try:
        planned = made(case, from_config(build("llama").config))
    except Unplanned:
        assert case in {"frod", "adamss", "shira", "lora eva"}
        return
    except BadInput:
        pytest.skip("this method of PEFT needs values")
    if case not in ("adalora", "lora eva"):
        real = made(case)
        assert sum(p.numel() for p in planned.parameters() if p.requires_grad) == sum(
            p.numel() for p in real.parameters() if p.requires_grad
        )


@pytest.mark.parametrize(
    ("name", "settings", "error", "said"),
    [
        ("lora", {"rank": 64}, BadInput, "16 wide"),
        ("lora", {"init": "pisa"}, UnknownName, "pissa"),
        ("lora", {"targets": ["up_prj"]}, UnmatchedSelect, "up_proj"),
        ("lora", {"layers": "layers(7:9)"}, UnmatchedSelect, "layers"),
        ("lora", {"init": "eva"}, BadInput, "rows"),
        ("lora", {"peft": {"lora_drop": 1}}, BadInput, "lora_drop"),
        ("lora", {"peft": {"r": 3}}, BadInput, "`rank`"),
        ("lora", {"peft": {"layers_to_transform": [0]}}, BadInput, "`layers`"),
        ("lora", {"peft": {"exclude_modules": ["up_prj"]}}, UnmatchedSelect, "up_proj"),
        ("lora", {"peft": {"rank_pattern": {"up_prj": 3}}}, UnmatchedSelect, "up_proj"),
        ("lora", {"peft": {"modules_to_save": ["lm_haed"]}}, UnmatchedSelect, "lm_head"),
        ("vera", {"target_modules": ["up_proj", "nonsense"]}, UnmatchedSelect, "nonsense"),
        ("hra", {"layers_to_transform": [0]}, UnknownName, "layers"),
        ("adalora", {"rank": 2, "start": 1, "steps": 5}, BadInput, "rank <= start"),
        ("adalora", {}, BadInput, "steps"),
        ("prompt", {"tokens": 0}, BadInput, "at least 1"),
        ("prompt", {"text": "Answer:"}, BadInput, "tokenizer"),
        ("prompt", {"tokens": 40}, BadInput, "positions"),
        ("ptuning2", {"text": "Answer:"}, BadInput, "tokenizer"),
        ("ptuning", {"encoder": "GRU"}, BadInput, "MLP or LSTM"),
        ("shira", {"rank": 0}, BadInput, "rank >= 1"),
        ("vera", {"targets": ["up_prj"]}, UnmatchedSelect, "up_proj"),
        ("vera", {"rr": 3}, UnknownName, "'r'"),
        ("miss", {"r": 64}, BadInput, "less than or equal"),
        ("hra", {"target_modules": ["up_proj"], "layers": "layers(0:1)"}, BadInput, "layers"),
        ("qlora", {"bits": 3}, BadInput, "4 bits"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    name: str, settings: dict[str, Any], error: type[HoldfastError], said: str
) -> None:
    with pytest.raises(error, match=said):
        methods.apply(name, build("llama"), settings, seed=0)


def test_layers_narrow_the_targets() -> None:
    for name in ("lora", "vera", "ln", "bottleneck", "shira"):
        model = methods.apply(name, build("llama"), {"layers": "layers(-1:)"}, seed=0)
        trained = [n for n, p in model.named_parameters() if p.requires_grad and ".layers." in n]
        assert trained and all(".layers.2." in n for n in trained), name


def test_a_prompt_starts_as_its_text_and_a_hub_class_finds_the_task(tmp_path: Path) -> None:
    base = load_base("tiny")
    model = methods.apply("prompt", base.model, {"tokens": 6, "text": "Once upon"}, tokenizer=base.tokenizer)
    ids = base.tokenizer("Once upon", add_special_tokens=False)["input_ids"]
    expected = base.model.get_input_embeddings()(torch.tensor((ids * 6)[:6]))
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, expected)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoPeftModelForCausalLM.from_pretrained(tmp_path), PeftModel)


def test_these_are_the_names_that_are_given() -> None:
    taken = {knob for name in methods.names() for knob in methods.knobs(name)}
    assert set(GIVEN) < taken


QUICK = ("adalora", "prompt", "ptuning", "ptuning2 projected", "osf", "bottleneck")
SAVED = quickly(QUICK, [case for case in SETTINGS if case not in ("full", "pvera")])
"""pVeRA draws noise in training from a generator of its own, which nothing saves."""


@pytest.mark.parametrize("case", SAVED)
def test_a_run_that_is_resumed_ends_where_it_would_have(case: str, tmp_path: Path) -> None:
    """Bit for bit, through the Trainer: whatever trains is in a checkpoint, though PEFT may save less of it."""

    def trainer() -> Trainer:
        args = TrainingArguments(
            output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, save_steps=2, use_cpu=True,
            learning_rate=RATE.get(case.split()[0], 0.03), report_to="none", disable_tqdm=True, save_strategy="steps",
        )  # fmt: skip
        companion = methods.traits(case.split()[0]).companion
        rules = [] if companion is None else [companion({})]
        given = {"train_dataset": ROWS, "rules": rules, "data_collator": default_data_collator}
        return Trainer(model=made(case), args=args, **given)

    whole, again = trainer(), trainer()
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    trained = {n: p for n, p in whole.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, trained[n]) for n, p in again.model.named_parameters() if n in trained)
