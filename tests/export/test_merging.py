"""Merged models answer as adapted ones do, and those that would not are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from holdfast._errors import ExportRefused, Unsupported
from holdfast.adapters.bottleneck import bottleneck
from holdfast.export import difference, logits_of, merge, probe_rows
from tests.characters import base, base_folder, stirred, tokenizer
from tests.export.adapted import CONFIGS, MLP
from tests.models import build

ROWS = torch.randint(3, 80, (3, 12), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_merged_model_is_plain_and_answers_as_the_adapted_one(name: str) -> None:
    arch, config = CONFIGS[name]
    adapted = stirred(build(arch), config)
    before, plain = logits_of(adapted, ROWS), logits_of(build(arch), ROWS)
    assert (before - plain).abs().max() > 0.01
    merged, check = merge(adapted, ROWS)
    assert type(merged) is type(build(arch))
    assert not any("lora" in n or "ia3" in n for n, _ in merged.named_parameters())
    assert (logits_of(merged, ROWS) - before).abs().max() < 1e-5
    assert check.passed and check.difference.largest < 1e-5 and check.difference.flipped == 0
    assert check.difference.positions == 36 and not check.quantised


def test_differences_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(7, 5, generator=generator) for _ in range(2))
    found = difference(before, after)
    pairs = [(float(a), float(b)) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)]
    assert found.largest == pytest.approx(max(abs(a - b) for a, b in pairs))
    assert found.flipped == sum(int(x.argmax()) != int(y.argmax()) for x, y in zip(before, after, strict=True)) / 7
    assert found.spread == pytest.approx(float(before.std()))
    assert difference(before, after * torch.nan).largest == torch.inf


def test_probe_rows_are_text_that_the_model_knows_and_ids_of_its_whole_vocabulary() -> None:
    rows = probe_rows(base("llama"))
    assert len(rows) == 8 and all(len(row) <= 64 and max(row) < 96 for row in rows)
    assert tokenizer().decode(rows[0]).startswith("<s>One day, a little girl named Lily")
    small = build("llama")
    small.resize_token_embeddings(20)
    assert all(max(row) < 20 for row in probe_rows(base(model=small))) and len(probe_rows(base(model=small))) == 2


def test_rounding_to_sixteen_bits_is_measured_and_allowed() -> None:
    merged, check = merge(stirred(build("llama"), CONFIGS["llama"][1]), ROWS, dtype=torch.bfloat16)
    assert merged.dtype == torch.bfloat16
    assert 1e-4 < check.difference.largest < check.tolerance < check.difference.spread


def test_what_moves_too_far_is_refused_unless_forced() -> None:
    made: dict[str, Any] = {"dtype": torch.bfloat16, "tolerance": 1e-6}
    with pytest.raises(ExportRefused, match=r"moved by .* where 1e-06 is allowed.*--force"):
        merge(stirred(build("llama"), CONFIGS["llama"][1]), ROWS, **made)
    _, check = merge(stirred(build("llama"), CONFIGS["llama"][1]), ROWS, force=True, **made)
    assert not check.passed


def test_an_update_too_large_for_float16_is_refused() -> None:
    adapted = stirred(build("llama"), CONFIGS["llama"][1], std=3000.0)
    with pytest.raises(ExportRefused, match="moved by inf"):
        merge(adapted, ROWS, dtype=torch.float16)


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_virtual_tokens_cannot_be_merged(config: Any) -> None:
    settings = {"encoder_hidden_size": 8} if config is PromptEncoderConfig else {}
    adapted = stirred(build("llama"), config(task_type="CAUSAL_LM", num_virtual_tokens=2, **settings))
    with pytest.raises(Unsupported, match=r"virtual tokens.*--adapter"):
        merge(adapted, ROWS)


def test_bottlenecks_cannot_be_merged() -> None:
    with pytest.raises(Unsupported, match="--adapter"):
        merge(bottleneck(build("llama"), size=4), ROWS)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "t5"])
def test_a_head_that_was_trained_whole_is_parted_from_the_embedding(arch: str) -> None:
    targets = CONFIGS[arch][1].target_modules
    adapted = stirred(build(arch, tied=True), LoraConfig(r=2, target_modules=targets, modules_to_save=["lm_head"]))
    before = logits_of(adapted, ROWS)
    merged, check = merge(adapted, ROWS)
    assert check.parted
    assert not torch.equal(merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
    assert (logits_of(merged, ROWS) - before).abs().max() < 1e-5
    # A T5 reads this flag as whether its outputs are scaled.
    assert merged.config.tie_word_embeddings is (arch == "t5")


@pytest.mark.parametrize("extra", [{"modules_to_save": ["embed_tokens"]}, {"target_modules": [*MLP, "embed_tokens"]}])
def test_an_embedding_that_the_adapter_changes_is_parted_from_the_head(extra: dict[str, Any]) -> None:
    adapted = stirred(build("llama", tied=True), LoraConfig(**{"r": 2, "target_modules": MLP, **extra}))
    _, check = merge(adapted, ROWS)
    assert check.parted and check.passed and check.difference.largest < 1e-5


def test_what_stays_tied_stays_tied() -> None:
    merged, check = merge(stirred(build("llama", tied=True), CONFIGS["llama"][1]), ROWS)
    assert not check.parted and merged.config.tie_word_embeddings is True
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@needs_bitsandbytes
@pytest.mark.parametrize(("settings", "exact"), [(FOUR, True), ({"load_in_8bit": True}, False)])
def test_a_quantised_base_is_dequantised_before_merging(tmp_path: Path, settings: Any, exact: bool) -> None:
    quantisation = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        base_folder(tmp_path / "base"), quantization_config=quantisation, dtype=torch.float32
    )
    adapted = stirred(model, CONFIGS["llama"][1])
    before = logits_of(adapted, ROWS)
    merged, check = merge(adapted, ROWS)
    assert check.quantised and check.passed and (check.tolerance == 1e-3) is exact
    assert check.difference.largest < (1e-5 if exact else 0.5 * float(before.std()))
    assert not getattr(merged, "is_quantized", False) and not hasattr(merged.config, "quantization_config")
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(logits_of(again, ROWS), logits_of(merged, ROWS))
