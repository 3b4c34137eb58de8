"""New rows over a frozen matrix: the function and the learning of one matrix, and old rows that never move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPTJConfig, GPTJForCausalLM

from holdfast._errors import BadInput, Unsupported
from holdfast.adapters.method import methods
from holdfast.params.fisher import fisher
from holdfast.params.inventory import inventory
from holdfast.vocabulary.rows import as_before, embedding_of, fold, folded, is_tied, lay, new_rows, sides
from tests.models import VOCABULARY, WIDTH, build, inputs

NEW = 7
BOUNDARY = VOCABULARY - 3
"""Three rows of the matrix are padding beyond the tokens, and the new ids reach four beyond the matrix."""


def extended(arch: str, *, tied: bool = True, seed: int = 0) -> Any:
    model = build(arch, tied=tied, seed=seed)
    drawn = torch.Generator().manual_seed(seed)
    widths = [side.weight.shape[1] for side in sides(model)]
    rows = [torch.randn(NEW, width, generator=drawn) * 0.3 for width in widths]
    lay(model, BOUNDARY, rows[0], None if is_tied(model) else rows[1])
    return model


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Rows in which about a third of the tokens are new."""
    made = inputs(seed=seed)
    old = made["input_ids"].clamp(max=BOUNDARY - 1)
    new = torch.randint(BOUNDARY, BOUNDARY + NEW, old.shape, generator=torch.Generator().manual_seed(seed + 1))
    ids = torch.where(made["input_ids"] % 3 == 0, new, old)
    return {"input_ids": ids, "labels": ids.clone()}


EVERY = [(arch, tied) for arch in ("llama", "qwen2", "gpt2", "gpt_neox", "opt", "t5") for tied in (True, False)]


@pytest.mark.parametrize(("arch", "tied"), EVERY)
def test_logits_are_those_of_one_matrix(arch: str, tied: bool) -> None:
    model = extended(arch, tied=tied)
    plain = fold(copy.deepcopy(model))
    assert not new_rows(plain) and plain.get_input_embeddings().weight.shape[0] == BOUNDARY + NEW
    torch.testing.assert_close(model(**batch()).logits, plain(**batch()).logits)
    torch.testing.assert_close(model(**batch()).loss, plain(**batch()).loss)


@pytest.mark.parametrize(("arch", "tied"), EVERY)
def test_old_logits_are_the_base_s_to_the_last_bit(arch: str, tied: bool) -> None:
    """On old text, whatever the new rows are: they add columns and change none."""
    base, model = build(arch, tied=tied), extended(arch, tied=tied)
    old = {k: v.clamp(max=BOUNDARY - 1) for k, v in inputs().items()}
    before, after = base(**old).logits, model(**old).logits
    assert after.shape[-1] == BOUNDARY + NEW
    assert torch.equal(after[..., :BOUNDARY], before[..., :BOUNDARY])
    with as_before(model):
        silent = model(**old)
    assert torch.equal(silent.logits, before) and torch.equal(silent.loss, base(**old).loss)
    assert model.config.get_text_config().vocab_size == BOUNDARY + NEW


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("whole", [False, True])
def test_gradients_are_those_of_one_matrix(tied: bool, whole: bool) -> None:
    """Also where the matrix trains with them; its padding rows below new ids get none."""
    model = extended("llama", tied=tied)
    plain = fold(copy.deepcopy(model))
    model.requires_grad_(whole)
    for parameter in new_rows(model).values():
        parameter.requires_grad_(True)
    model(**batch()).loss.backward()
    plain(**batch()).loss.backward()
    sides = [("model.embed_tokens", plain.get_input_embeddings())]
    for path, side in sides if tied else [*sides, ("lm_head", plain.get_output_embeddings())]:
        found = dict(model.named_parameters())
        torch.testing.assert_close(found[f"{path}.new_rows"].grad, side.weight.grad[BOUNDARY:])
        if whole:
            torch.testing.assert_close(found[f"{path}.weight"].grad[:BOUNDARY], side.weight.grad[:BOUNDARY])
            assert not found[f"{path}.weight"].grad[BOUNDARY:].any()
        else:
            assert found[f"{path}.weight"].grad is None


@pytest.mark.parametrize("tied", [True, False])
def test_learning_follows_the_dense_mask_where_that_decays_nothing(tied: bool) -> None:
    """The whole matrix in the optimiser with a masked gradient, step for step to 1e-6."""
    model = extended("llama", tied=tied)
    plain = fold(copy.deepcopy(model)).requires_grad_(False)
    methods.apply("rows", model, {})
    dense = {id(w): w for w in (plain.get_input_embeddings().weight, plain.get_output_embeddings().weight)}.values()
    for matrix in dense:
        matrix.requires_grad_(True).register_hook(lambda grad: grad.index_fill(0, torch.arange(BOUNDARY), 0.0))
    ours = torch.optim.AdamW(new_rows(model).values(), lr=1e-2, weight_decay=0.0)
    theirs = torch.optim.AdamW(dense, lr=1e-2, weight_decay=0.0)
    for step in range(12):
        for one, optimizer in ((model, ours), (plain, theirs)):
            one(**batch(step)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for rows, matrix in zip(new_rows(model).values(), dense, strict=True):
            assert (rows - matrix[BOUNDARY:]).abs().max() < 1e-6


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_stand_still_and_the_optimiser_holds_new_ones_only(tied: bool) -> None:
    """At weight decay 0.1, where a masked gradient lets every old row shrink."""
    model = extended("llama", tied=tied)
    methods.apply("rows", model, {})
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for step in range(10):
        model(**batch(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(new_rows(model))
    state = sum(v.numel() for s in optimizer.state.values() for k, v in s.items() if k != "step")
    assert state == 2 * NEW * WIDTH * (1 if tied else 2)


def test_gradient_checkpointing_and_bfloat16_reach_the_rows() -> None:
    model = extended("llama")
    methods.apply("rows", model, {})
    model(**batch()).loss.backward()
    (plain,) = [p.grad.clone() for p in new_rows(model).values()]
    model.zero_grad()
    model.train()
    model.gradient_checkpointing_enable()
    model(**batch()).loss.backward()
    (ticked,) = [p.grad for p in new_rows(model).values()]
    torch.testing.assert_close(ticked, plain)
    half = extended("llama").to(torch.bfloat16)
    lay(half, BOUNDARY, half.get_input_embeddings().new_rows)
    methods.apply("rows", half, {})
    out = half(**batch())
    out.loss.backward()
    (rows,) = new_rows(half).values()
    assert out.logits.dtype is torch.bfloat16 and rows.dtype is torch.float32 and rows.grad.dtype is torch.float32
    torch.testing.assert_close(rows.grad, plain, rtol=0.1, atol=0.01)


def test_autocast_makes_half_logits_of_float32_rows() -> None:
    model = extended("llama")
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch())
    assert out.logits.dtype is torch.bfloat16
    torch.testing.assert_close(out.logits.float(), model(**batch()).logits, rtol=0.1, atol=0.05)


def test_rows_are_found_by_what_reads_a_model() -> None:
    model = extended("llama", tied=False)
    found = {param.path: param.component for param in inventory(model) if param.path.endswith("new_rows")}
    assert found == {"model.embed_tokens.new_rows": "adapter", "lm_head.new_rows": "adapter"}
    assert type(model.get_output_embeddings()).__name__ == "Linear" and embedding_of(build("llama")) is None


@pytest.mark.parametrize("tied", [True, False])
def test_fisher_of_rows_is_the_loop_s(tied: bool) -> None:
    model = extended("llama", tied=tied)
    given = [batch(0), batch(1)]
    found = fisher(model, given)
    looped = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for whole in given:
        for row in range(2):
            ids = whole["input_ids"][row : row + 1]
            loss = model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
            grads = torch.autograd.grad(loss, [p for _, p in model.named_parameters()])
            for name, grad in zip(looped, grads, strict=True):
                looped[name] += grad**2 / 4
    for name, value in looped.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_a_plain_model_s_tensors_hold_the_new_rows() -> None:
    for tied in (True, False):
        model = extended("llama", tied=tied)
        state = folded(model)
        plain = fold(copy.deepcopy(model)).state_dict()
        assert state.keys() == plain.keys()
        assert all(torch.equal(state[name], plain[name]) for name in plain)
        assert (state["lm_head.weight"] is state["model.embed_tokens.weight"]) == tied


def test_more_rows_than_fit_below_the_matrix_s_padding_and_fewer() -> None:
    """Fewer new ids than padding rows: the matrix keeps its size, and rows beyond the new ones theirs."""
    base, model = build("llama"), build("llama")
    lay(model, VOCABULARY - 10, torch.ones(4, WIDTH))
    ids = {k: v.clamp(max=VOCABULARY - 11) for k, v in inputs().items()}
    before, after = base(**ids).logits, model(**ids).logits
    changed = (before != after).any(0).any(0).nonzero().flatten().tolist()
    assert after.shape == before.shape and changed == list(range(VOCABULARY - 10, VOCABULARY - 6))
    after.sum().backward()
    assert not model.get_input_embeddings().weight.grad[VOCABULARY - 10 : VOCABULARY - 6].any()


def test_scaled_embeddings_scale_new_rows() -> None:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3TextConfig(vocab_size=VOCABULARY, num_key_value_heads=1, head_dim=8, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(config).eval()
    lay(model, BOUNDARY, torch.randn(NEW, WIDTH))
    plain = fold(copy.deepcopy(model))
    torch.testing.assert_close(model(**batch()).logits, plain(**batch()).logits)


def test_what_cannot_be_laid_is_said() -> None:
    with pytest.raises(BadInput, match="New rows are \\[tokens, 16\\]"):
        lay(build("llama"), BOUNDARY, torch.zeros(3, 5))
    with pytest.raises(BadInput, match="A tied head"):
        lay(build("llama"), BOUNDARY, torch.zeros(3, WIDTH), torch.zeros(3, WIDTH))
    with pytest.raises(BadInput, match="needs `outputs`"):
        lay(build("llama", tied=False), BOUNDARY, torch.zeros(3, WIDTH))
    biased = GPTJForCausalLM(GPTJConfig(vocab_size=96, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=32))
    with pytest.raises(Unsupported, match="bias"):
        lay(biased, 90, torch.zeros(3, 16), torch.zeros(3, 16))
    with pytest.raises(BadInput, match="there are none"):
        methods.apply("rows", build("llama"), {})
    with pytest.raises(BadInput, match="no new rows"):
        fold(build("llama"))


def test_deepcopies_share_nothing() -> None:
    model = extended("llama")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(new_rows(twin).values())).zero_()
    ids = batch()
    assert not torch.equal(model(**ids).logits, twin(**ids).logits)
    assert isinstance(next(iter(new_rows(twin).values())), nn.Parameter)
    assert not twin(**ids).logits[..., BOUNDARY:].any()
