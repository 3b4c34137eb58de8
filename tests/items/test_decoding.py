"""Items come out as scoring all of them one by one says, always valid, whatever else a model is set to."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import random
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, GenerationConfig, MistralConfig, MistralForCausalLM

from holdfast._errors import BadInput, UnknownName, Unsupported
from holdfast.items.decoding import recommend
from holdfast.items.processor import PrefixTreeLogitsProcessor
from holdfast.items.search import follows
from holdfast.items.trie import Trie
from tests.characters import lively, tokenizer
from tests.models import build, quickly

TOKENIZER = tokenizer()
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id
PROMPTS = ["ab", "He bought a nut, a bolt", "c, then d"]
DECODERS = ("llama", "qwen2", "gpt2", "gpt_neox", "opt", "lora")

Ids = dict[int, list[int]]


def three_levels(items: int, *, codes: Sequence[int] = (3, 6, 8), seed: int = 0) -> Ids:
    """Distinct IDs of one token per level, each level with tokens of its own."""
    firsts = list(itertools.accumulate(codes, initial=20))
    every = list(itertools.product(*(range(a, b) for a, b in itertools.pairwise(firsts))))
    return {i: list(path) for i, path in enumerate(random.Random(seed).sample(every, items))}


RAGGED: Ids = {0: [20, 21], 1: [20], 2: [20, 21, 22], 3: [23, 24], 4: [20, 21], 5: [25, 25, 25, 25], 6: [23, 26, 27]}
"""IDs of unequal length, two that begin others, and two items on one path."""


def prompt_ids(model: Any, prompt: str) -> list[int]:
    return TOKENIZER(prompt).input_ids if model.config.is_encoder_decoder else [1, *TOKENIZER(prompt).input_ids]


def brute(model: Any, prompt: str, ids: Ids, *, gone: Collection[int] = ()) -> list[tuple[int, float]]:
    """The twin: every item scored alone, token by token."""
    found = []
    for item, path in ids.items():
        goes_on = any(other[: len(path)] == path and len(other) > len(path) for other in ids.values())
        scored = score(model, prompt_ids(model, prompt), path + ([END] if goes_on else []))
        found += [] if item in gone else [(item, scored)]
    return sorted(found, key=lambda pair: (-round(pair[1], 4), pair[0]))


def score(model: Any, prompt: list[int], path: list[int]) -> float:
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[0, *path[:-1]]])}
            logits = model(**inputs).logits[0]
        else:
            logits = model(input_ids=torch.tensor([prompt + path[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
    return sum(float(line.float().log_softmax(-1)[token]) for line, token in zip(logits, path, strict=True))


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]], tolerance: float = 2e-5) -> None:
    """Equal items in an equal order and equal scores, rounding apart."""
    assert [item for item, _ in found] == [item for item, _ in expected]
    assert [s for _, s in found] == pytest.approx([s for _, s in expected], abs=tolerance)


@pytest.mark.parametrize("way", ["search", "generate"])
@pytest.mark.parametrize("arch", quickly(["llama", "gpt2"], DECODERS))
def test_with_enough_beams_it_is_brute_force(arch: str, way: Any) -> None:
    model, ids = lively(arch), three_levels(30)
    found = recommend(model, TOKENIZER, PROMPTS, Trie(ids), k=30, beams=30, way=way)
    for prompt, items in zip(PROMPTS, found, strict=True):
        same(items, brute(model, prompt, ids))


@pytest.mark.parametrize("way", ["search", "generate"])
def test_ids_of_unequal_length_and_of_two_items(way: Any) -> None:
    model = lively("llama")
    found = recommend(model, TOKENIZER, PROMPTS, Trie(RAGGED), k=7, beams=7, way=way)
    for prompt, items in zip(PROMPTS, found, strict=True):
        same(items, brute(model, prompt, RAGGED))
    assert sum(torch.tensor([s for item, s in found[0] if item != 4]).exp()) < 1


@pytest.mark.parametrize("way", ["search", "generate"])
@pytest.mark.parametrize("ids", [three_levels(30), RAGGED])
def test_excluded_items_are_out_and_others_move_up(ids: Ids, way: Any) -> None:
    model, gone = lively("llama"), [{0, 3}, set(), set(list(ids)[2:])]
    found = recommend(model, TOKENIZER, PROMPTS, Trie(ids), k=len(ids), beams=len(ids), exclude=gone, way=way)
    for prompt, some, items in zip(PROMPTS, gone, found, strict=True):
        same(items, brute(model, prompt, ids, gone=some))
    assert [len(items) for items in found] == [len(ids) - 2, len(ids), 2]


@pytest.mark.parametrize("way", ["search", "generate"])
def test_few_beams_still_give_k_when_much_is_excluded(way: Any) -> None:
    ids, model = three_levels(60), lively("llama")
    best = brute(model, PROMPTS[0], ids)
    gone = {item for item, _ in best[:40]}
    found = recommend(model, TOKENIZER, PROMPTS[:1], Trie(ids), k=5, beams=5, exclude=[gone], way=way)[0]
    assert len({item for item, _ in found} - gone) == 5


def test_a_prompt_with_nothing_left_has_no_items() -> None:
    trie = Trie(three_levels(4))
    assert recommend(lively("llama"), TOKENIZER, PROMPTS[:2], trie, exclude=[set(range(4)), {0}])[0] == []


@pytest.mark.parametrize("way", ["search", "generate"])
@pytest.mark.parametrize("items", [2, 30])
def test_more_beams_than_first_codes_or_items_give_valid_items_only(items: int, way: Any) -> None:
    ids = three_levels(items)
    for found in recommend(lively("llama"), TOKENIZER, PROMPTS, Trie(ids), k=50, beams=50, way=way):
        assert sorted(item for item, _ in found) == list(range(items))
        assert all(-100 < s < 0 for _, s in found)


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_few_beams_follow_what_generate_follows(beams: int) -> None:
    model, trie = lively("qwen2"), Trie(three_levels(100))
    ours, theirs = (
        recommend(model, TOKENIZER, PROMPTS, trie, k=beams, beams=max(2, beams), way=way)
        for way in ("search", "generate")
    )
    for a, b in zip(ours, theirs, strict=True):
        same(a, b)


def test_prompts_do_not_depend_on_their_batch_or_the_side_of_padding() -> None:
    trie, model, left = Trie(three_levels(100)), lively("gpt2"), copy.deepcopy(TOKENIZER)
    together = recommend(model, TOKENIZER, PROMPTS, trie, beams=20)
    left.padding_side = "left"
    for other in (
        [recommend(model, TOKENIZER, [prompt], trie, beams=20)[0] for prompt in PROMPTS],
        recommend(model, left, PROMPTS, trie, beams=20, batch_size=2),
        recommend(model, TOKENIZER, [prompt_ids(model, prompt) for prompt in PROMPTS], trie, beams=20),
    ):
        for a, b in zip(together, other, strict=True):
            same(a, b)


def test_equal_scores_come_in_the_order_of_the_items() -> None:
    model, ids = lively("llama"), three_levels(40)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    shuffled = {i: ids[i] for i in random.Random(1).sample(list(ids), len(ids))}
    found = recommend(model, TOKENIZER, PROMPTS[:1], Trie(shuffled), k=40, beams=40)[0]
    assert [item for item, _ in found] == list(shuffled)
    assert next(iter(shuffled)) == recommend(model, TOKENIZER, PROMPTS[:1], Trie(shuffled), k=1, beams=1)[0][0][0]


def test_a_length_penalty_ranks_by_score_over_length() -> None:
    model = lively("llama")
    plain = dict(brute(model, PROMPTS[0], RAGGED))
    found = recommend(model, TOKENIZER, PROMPTS[:1], Trie(RAGGED), k=7, length_penalty=2.0)[0]
    expected = sorted(((i, s / len(RAGGED[i]) ** 2) for i, s in plain.items()), key=lambda p: (-round(p[1], 5), p[0]))
    same(found, expected)


def drawing() -> GenerationConfig:
    """Settings as chat models bring them, and worse."""
    return GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.5, no_repeat_ngram_size=1,
        eos_token_id=[2, 5], pad_token_id=0, max_length=4, length_penalty=3.0,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["search", "generate"])
def test_the_models_own_generation_settings_have_no_say(way: Any) -> None:
    model, trie = lively("llama"), Trie(RAGGED)
    plain = recommend(model, TOKENIZER, PROMPTS, trie, k=7, way=way)
    model.generation_config = drawing()
    assert recommend(model, TOKENIZER, PROMPTS, trie, k=7, way=way) == plain
    assert model.generation_config.to_dict() == drawing().to_dict()


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 4}, {"do_sample": False, "num_beams": 4}])
@pytest.mark.parametrize("ids", [three_levels(30), RAGGED])
def test_in_generate_the_processor_keeps_every_row_on_an_item(ids: Ids, settings: dict[str, Any]) -> None:
    model, trie = lively("llama"), Trie(ids)
    model.generation_config = drawing()
    inputs = TOKENIZER(PROMPTS, padding=True, padding_side="left", return_tensors="pt")
    begin = inputs.input_ids.shape[1]
    processor = PrefixTreeLogitsProcessor(trie, begin, end=END, pad=PAD, exclude=[{0}, {1}, ()])
    made = model.generate(
        inputs.input_ids, attention_mask=inputs.attention_mask, logits_processor=[processor],
        max_new_tokens=trie.depth + 1, max_length=None, eos_token_id=END, **settings,
    )  # fmt: skip
    states, ended = trie.walk(made[:, begin:], END)
    assert all(trie.at(int(state)) for state in states) and bool(ended.all())
    items = [{trie.items[i] for i in trie.at(int(state))} for state in states]
    assert items[0] != {0} and items[1] != {1}


def test_after_an_id_comes_the_end_and_then_padding() -> None:
    processor = PrefixTreeLogitsProcessor(Trie({"a": [5, 6], "b": [5]}), 1, end=END, pad=PAD)

    def let(rows: list[list[int]]) -> list[dict[int, float]]:
        scores = processor(torch.tensor(rows), torch.full((len(rows), 9), -1.0))
        return [{i: x for i, x in enumerate(line) if x > -math.inf} for line in scores.tolist()]

    assert let([[9]]) == [{5: -1}]
    assert let([[9, 5], [9, 6]]) == [{END: -1, 6: -1}, {}]
    assert let([[9, 5, 6], [9, 5, END]]) == [{END: 0}, {PAD: 0}]


def test_an_encoder_decoder_generates() -> None:
    model = lively("t5")
    assert not follows(model)
    for ids in (three_levels(30), RAGGED):
        found = recommend(model, TOKENIZER, PROMPTS, Trie(ids), k=len(ids))
        for prompt, items in zip(PROMPTS, found, strict=True):
            same(items, brute(model, prompt, ids))


def bloom() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=16, n_layer=2, n_head=2))


def windowed() -> Any:
    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MistralForCausalLM(MistralConfig(vocab_size=96, num_key_value_heads=1, sliding_window=4, **settings))


def virtual() -> Any:
    settings = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    return get_peft_model(build("llama"), settings)


@pytest.mark.parametrize("kind", [bloom, windowed, virtual])
def test_models_that_cannot_be_searched_generate(kind: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, ids = kind().eval(), three_levels(30)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    assert not follows(model)
    found = recommend(model, TOKENIZER, PROMPTS, Trie(ids), k=30, beams=30)
    skipped = 3 if kind is virtual else 0
    for prompt, items in zip(PROMPTS, found, strict=True):
        same(items, brute_behind(model, prompt, ids, skipped), 1e-4)
    with pytest.raises(Unsupported, match="generate"):
        recommend(model, TOKENIZER, PROMPTS, Trie(ids), way="search")


def brute_behind(model: Any, prompt: str, ids: Ids, skipped: int) -> list[tuple[int, float]]:
    """Brute force where so many logits stand before those of the prompt."""
    if not skipped:
        return brute(model, prompt, ids)
    found = []
    for item, path in ids.items():
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt_ids(model, prompt) + path])).logits[0, -len(path) - 1 : -1]
        found.append((item, float(logits.log_softmax(-1).gather(1, torch.tensor(path)[:, None]).sum())))
    return sorted(found, key=lambda pair: -pair[1])


def test_a_search_that_does_not_hold_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = lively("llama"), three_levels(30)
    forward = model.forward

    def displaced(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        """A model that counts places by its cache, so that beams behind one another stand too far out."""
        return forward(*args, **kwargs)

    vars(displaced)["__signature__"] = inspect.signature(forward)
    monkeypatch.setattr(model, "forward", displaced)
    assert follows(model)
    asked = {"k": 30, "beams": 30}
    searched = recommend(model, TOKENIZER, PROMPTS, Trie(ids), way="search", **asked)
    found = recommend(model, TOKENIZER, PROMPTS, Trie(ids), **asked)
    assert found == recommend(model, TOKENIZER, PROMPTS, Trie(ids), way="generate", **asked) != searched


def test_model_and_random_state_stay_and_progress_is_told() -> None:
    model, told = build("llama", dropout=0.5).train(), []
    model.model.layers[0].eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    trie, asked = Trie(three_levels(30)), {"batch_size": 2, "progress": lambda *x: told.append(x)}
    first = recommend(model, TOKENIZER, PROMPTS, trie, **asked)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [(2, 3), (3, 3)]
    assert recommend(model, TOKENIZER, PROMPTS, trie, **asked) == first
    assert recommend(model, TOKENIZER, [], trie) == []


def test_low_precision_is_close() -> None:
    model, ids = lively("llama"), three_levels(30)
    exact = dict(brute(model, PROMPTS[1], ids))
    found = recommend(model.to(torch.bfloat16), TOKENIZER, PROMPTS, Trie(ids), k=30, beams=30)[1]
    assert dict(found) == pytest.approx(exact, rel=0.05, abs=0.2)


def test_a_long_prompt_loses_its_beginning_and_keeps_bos() -> None:
    model, trie = lively("gpt2"), Trie(three_levels(30))
    long = recommend(model, TOKENIZER, ["ab" * 50], trie)
    same(long[0], recommend(model, TOKENIZER, [[1, *TOKENIZER("ab" * 30).input_ids]], trie)[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "k = 0"),
        ({"beams": 0}, "beams = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"exclude": [set()]}, "3 prompts"),
        ({"exclude": [{99}, (), ()]}, "99 is to be excluded"),
        ({"trie": Trie({0: [END]})}, "part of one"),
        ({"trie": Trie({0: [96]})}, "knows 96 tokens"),
        ({"trie": Trie({0: [9] * 64})}, "no room"),
        ({"prompts": [[]]}, "empty"),
    ],
)
def test_what_cannot_be_asked(settings: dict[str, Any], words: str) -> None:
    asked = {"prompts": PROMPTS, "trie": Trie(three_levels(4)), **settings}
    with pytest.raises(BadInput, match=words):
        recommend(lively("llama"), TOKENIZER, **asked)


def test_models_and_ways_that_do_not_exist() -> None:
    trie, endless = Trie(RAGGED), copy.deepcopy(TOKENIZER)
    with pytest.raises(Unsupported, match="writes no text"):
        recommend(build("bert"), TOKENIZER, PROMPTS, trie)
    with pytest.raises(UnknownName, match="serch"):
        recommend(lively("llama"), TOKENIZER, PROMPTS, trie, way="serch")  # type: ignore[arg-type]
    endless.eos_token = None
    with pytest.raises(BadInput, match="no EOS"):
        recommend(lively("llama"), endless, PROMPTS, trie)
    broken = lively("llama")
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="no numbers"):
        recommend(broken, TOKENIZER, PROMPTS, trie)
