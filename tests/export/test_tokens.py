"""Models with new rows, written for others: a plain model, and an adapter that PEFT alone puts on the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast._errors import Unsupported
from holdfast.adapters.method import methods
from holdfast.adapters.rows import let_train
from holdfast.adapters.stored import load_adapted
from holdfast.base import load_base
from holdfast.export import export
from holdfast.export.tokens import as_peft
from holdfast.tiny import MODEL
from holdfast.vocabulary import extend, write_rows
from tests.vocabulary.test_rows import batch, extended

TOKENS = ["<a_0>", "<a_1>", "<b_0>"]
TEXT = "Once <a_1><b_0> upon"


def learnt(folder: Path, method: str) -> Any:
    """A model with new rows, and with an adapter whose factors are not zero, as a run leaves it."""
    base = load_base("tiny")
    extend(base.model, base.tokenizer, TOKENS, seed=2)
    model: Any = let_train(methods.apply(method, base.model, {} if method == "rows" else {"rank": 2}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "new_rows" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    if method != "rows":
        model.save_pretrained(folder)
    write_rows(model, base.tokenizer, folder)
    base.tokenizer.save_pretrained(folder)
    return model.eval()


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=torch.tensor([tokenizer(TEXT)["input_ids"]])).logits
    return found.detach()


@pytest.mark.parametrize("method", ["rows", "lora"])
def test_both_forms_answer_as_before_without_us(method: str, tmp_path: Path) -> None:
    model = learnt(tmp_path / "final", method)
    export(tmp_path / "final", tmp_path / "out", form="both")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/adapter")
    wanted = logits(model, tokenizer)
    assert wanted.shape[-1] == 515
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged")
    torch.testing.assert_close(logits(plain, tokenizer), wanted, atol=1e-4, rtol=1e-3)
    assert plain.config.vocab_size == 515 and plain.config.tie_word_embeddings
    base = AutoModelForCausalLM.from_pretrained(MODEL)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "out/adapter"))
    torch.testing.assert_close(logits(adapted, tokenizer), wanted)
    size = (tmp_path / "out/adapter/adapter_model.safetensors").stat().st_size
    assert size < 515 * 64 * 4, "the adapter holds the new rows, not the matrix"
    again = load_adapted(tmp_path / "out/adapter")
    torch.testing.assert_close(logits(again.model, again.tokenizer), wanted)


def test_an_untied_head_s_rows_go_with_the_adapter() -> None:
    own = extended("llama", tied=False)
    with torch.no_grad():
        wanted = own(**batch()).logits
        torch.testing.assert_close(as_peft(own).eval()(**batch()).logits, wanted)
        torch.testing.assert_close(own(**batch()).logits, wanted)


def test_an_adapter_without_a_place_for_tokens_says_what_to_do() -> None:
    base = load_base("tiny")
    extend(base.model, base.tokenizer, TOKENS)
    model = methods.apply("ia3", base.model, {})
    with pytest.raises(Unsupported, match="no place for new rows beside ia3"):
        as_peft(model)
