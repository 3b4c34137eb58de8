"""Choices scored in one pass: against a plain loop, against lm-evaluation-harness, and on models that cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from holdfast.base import Base, load_base
from holdfast.data.formats import Completion
from holdfast.data.rows import completion, start
from holdfast.evaluation import loss
from holdfast.evaluation.metrics import branching
from holdfast.evaluation.metrics.branching import Tree, branch_losses, trees
from holdfast.evaluation.scored import Floats
from holdfast.evaluation.suites import load_suite
from tests.models import build

ONE_TOKEN = Tree([1, 5, 6], [[7], [8]], [0, 0])
TREES = [
    ONE_TOKEN,
    Tree([1, 5, 6, 7, 8, 9, 3, 4] * 3, [[11, 12, 13, 14], [15, 16, 17], [18, 19, 20, 21, 22]], [0, 1, 0]),
    Tree([1, 9, 8, 7], [[6, 5, 4], [3], []], [0, 0, 0], told=2),
    Tree([1, 30], [[31, 32, 33]], [1]),
    Tree([], [[2, 3], [4, 5, 6]], [0, 0]),
]
SHAPE = {"vocab_size": 96, "hidden_size": 16}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


def lively(model: Any) -> Any:
    """Weights so large that what is attended to matters."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.4)
    return model.eval()


def one_by_one(model: Any, trees: Sequence[Tree]) -> list[Floats]:
    """Each branch with its context in a row of its own, token by token."""
    found = []
    for tree in trees:
        nats = []
        for branch, prompt in zip(tree.branches, tree.prompts, strict=True):
            ids, first = tree.context + branch, len(tree.context) + prompt - tree.told
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            logs = logits[-len(ids) :].double().log_softmax(-1)
            nats.append(-sum(float(logs[at - 1, ids[at]]) for at in range(max(first, 1), len(ids))))
        found.append(np.array(nats))
    return found


def packs(model: Any, trees: Sequence[Tree]) -> bool:
    return branching._packs(model, branching._telling(trees), 0, 4096)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "lora"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_one_pass_gives_what_each_branch_gives_alone(arch: str, batch_tokens: int) -> None:
    model = lively(build(arch))
    assert packs(model, TREES)
    found = branch_losses(model, TREES, batch_tokens=batch_tokens)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(one_by_one(model, TREES)), rtol=2e-5)


def test_eager_attention_is_packed_too() -> None:
    model = lively(build("gpt2"))
    model.set_attn_implementation("eager")
    assert packs(model, TREES)
    found = branch_losses(model, TREES)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(one_by_one(model, TREES)), rtol=2e-5)


MASKLESS: dict[str, Any] = {
    "places by distance": lambda: BloomForCausalLM(BloomConfig(n_layer=2, n_head=2, **SHAPE)),
    "places by distance, with a mask": lambda: MptForCausalLM(
        MptConfig(vocab_size=96, d_model=16, n_layers=2, n_heads=2, max_seq_len=64)
    ),
    "a window, said nowhere": lambda: MistralForCausalLM(
        MistralConfig(
            intermediate_size=32,
            num_key_value_heads=2,
            num_hidden_layers=2,
            num_attention_heads=2,
            sliding_window=6,
            **SHAPE,
        )
    ),
    "a window in some layers": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=6,
            max_position_embeddings=64,
            **SHAPE,
        )
    ),
    "prompt tuning": lambda: get_peft_model(
        build("llama"),
        PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=16, num_layers=3, num_attention_heads=2
        ),
    ),
    "prefix tuning": lambda: get_peft_model(
        build("llama"),
        PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=3, token_dim=16, num_layers=3, num_attention_heads=2
        ),
    ),
}


@pytest.mark.parametrize("kind", MASKLESS)
def test_a_model_that_the_mask_does_not_reach_reads_each_branch_apart(kind: str) -> None:
    """Even where the first choices and the longest are of one token, of which most masks give the right figures."""
    model, given = lively(MASKLESS[kind]()), [*TREES[:2], Tree([1, *range(5, 45)], [[7], [8]], [0, 0])]
    assert not packs(model, given)
    found = branch_losses(model, given)
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(one_by_one(model, given)), rtol=2e-5)


def test_the_embedded_model_is_packed_and_reads_a_context_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [record for record in load_suite("reading-en").records[:8] if isinstance(record, Completion)]
    made = trees(tasks, base.tokenizer, 512)
    read = sum(len(tree.context) + sum(map(len, tree.branches)) for tree in made)
    seen: list[torch.Tensor] = []
    hook = base.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["position_ids"]), with_kwargs=True
    )
    monkeypatch.setattr(branching, "_packs", lambda *given: True)
    branch_losses(base.model, made, batch_tokens=1)
    hook.remove()
    assert sum(places.numel() for places in seen) == read
    assert read < sum(len(tree.context) * len(tree.branches) for tree in made)


def test_only_the_logits_that_are_scored_are_made() -> None:
    model = lively(build("llama"))
    made: list[int] = []
    model.register_forward_hook(lambda _, __, outputs: made.append(outputs.logits.shape[1]))
    tree = Tree([1, *range(40, 90)], [[11, 12], [13, 14, 15]], [0, 0])
    (found,) = branching._together(model, [tree], 0, 4096)
    assert made == [6]
    np.testing.assert_allclose(found, one_by_one(model, [tree])[0], rtol=2e-5)


def test_half_precision_is_packed_and_near_single() -> None:
    model = lively(build("llama"))
    exact = np.concatenate(one_by_one(model, TREES))
    model.to(torch.bfloat16)
    assert packs(model, TREES)
    np.testing.assert_allclose(np.concatenate(branch_losses(model, TREES)), exact, rtol=0.1)


def test_many_long_branches_do_not_make_a_row_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branching, "PACKED", 8)
    tree = Tree([1, 2, 3], [[4, 5, 6], [7, 8], [9, 10, 11, 12]], [0, 0, 0], told=1)
    rows = list(branching._rows(tree, 0, 3))
    assert [len(row.ids) for row in rows] == [8, 7]
    assert [owner for row in rows for _, _, owner in row.scored].count(3) == 1
    model = lively(build("llama"))
    np.testing.assert_allclose(branch_losses(model, [tree])[0], one_by_one(model, [tree])[0], rtol=2e-5)


def test_trees_are_the_tokens_of_each_choice_after_its_prompt(base: Base) -> None:
    prompt = "Once upon a time, there was a little"
    tasks = [Completion(prompt, " girl", (" girl", " dragon named Bob", "st")), Completion("", "A cat", ("A cat", "A"))]
    for task, tree in zip(tasks, trees(tasks, base.tokenizer, 512), strict=True):
        for choice, branch, prompted in zip(task.choices, tree.branches, tree.prompts, strict=True):
            before, after = completion(Completion(task.prompt, choice), base.tokenizer)
            ids = tree.context + branch
            assert ids == [*start(base.tokenizer), *before, *after]
            assert len(ids) - (len(tree.context) + prompted - tree.told) == len(after)


@pytest.mark.parametrize("length", [8, 12, 30])
def test_a_prompt_without_room_loses_its_beginning_and_no_choice_loses_a_token(base: Base, length: int) -> None:
    task = Completion("far away " * 40, "there was a", ("there was a", "there is a little"))
    (tree,) = trees([task], base.tokenizer, length)
    (whole,) = trees([task], base.tokenizer, 500)
    assert max(len(tree.context) + len(branch) for branch in tree.branches) == length
    scored = [tree.told + len(b) - p for b, p in zip(tree.branches, tree.prompts, strict=True)]
    assert scored == [whole.told + len(b) - p for b, p in zip(whole.branches, whole.prompts, strict=True)]
    assert tree.context[0] == base.tokenizer.bos_token_id
    assert tree.context[1:] == whole.context[len(whole.context) - len(tree.context) + 1 :]


def test_a_processor_reads_in_batches_that_fit_its_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "PROCESSOR", 50)
    config = build("llama").config
    assert loss.bounded(config, 1000, torch.device("cpu")) == 50
    assert loss.bounded(config, 20, torch.device("cpu")) == 20
    assert loss.bounded(config, 1000, torch.device("cuda")) == 1000


def harness(base: Base) -> Any:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'holdfast[evaluate]'")
    import logging

    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=7, max_length=512)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("name", ["facts-en", "grammar-en"])
def test_log_likelihoods_are_those_of_the_harness(
    base: Base, name: str, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = harness(base)
    from lm_eval.api.instance import Instance

    tasks = [record for record in load_suite(name).records[:10] if isinstance(record, Completion)]
    asked = [Instance("loglikelihood", {}, (task.prompt, c), 0) for task in tasks for c in task.choices]
    expected = [pair[0] for pair in theirs.loglikelihood(asked, disable_tqdm=True)]
    monkeypatch.setattr(branching, "_packs", lambda *given: packing)
    found = np.concatenate(branch_losses(base.model, trees(tasks, base.tokenizer, 512)))
    np.testing.assert_allclose(-found, expected, rtol=1e-6, atol=1e-5)
