"""What a model answers: greedy continuation in batches of similar length, up to the first stop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from holdfast._errors import BadInput
from holdfast.data.formats import Completion
from holdfast.data.quiet import quiet
from holdfast.data.rows import length_sorted_batches, padding, start, tokens
from holdfast.evaluation.metrics.registry import BATCH_TOKENS, room


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int = BATCH_TOKENS,
) -> list[str]:
    """What the model writes after each prompt, greedily, up to the first stop; in batches of similar length.

    A prompt that leaves no room for `max_new_tokens` loses its beginning. No random state changes.
    """
    return answers(model, tokenizer, tasks, max_new_tokens=max_new_tokens, stop=stop, batch_tokens=batch_tokens)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Completion],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int = BATCH_TOKENS,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """What the model writes after each prompt; drawn at a `temperature` above 0, always the same for the same seed."""
    begin = start(tokenizer)
    left = room(model) - len(begin) - max_new_tokens
    if left < 1:
        raise BadInput(f"max_new_tokens = {max_new_tokens} leaves no room for a prompt in {room(model)} positions.")
    prompts = [begin + tokens(tokenizer, task.prompt)[-left:] for task in tasks]
    written = [""] * len(tasks)
    with quiet(model), torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        for chosen in length_sorted_batches([len(p) + max_new_tokens for p in prompts], batch_tokens):
            texts = _continued(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, stop, temperature)
            for i, text in zip(chosen, texts, strict=True):
                written[i] = text
    return written


class _Stopped(StoppingCriteria):
    """Rows whose new text holds a stop string are done; only their last tokens can have brought one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, begin: int, stop: Sequence[str]):
        self.tokenizer, self.begin, self.stop = tokenizer, begin, stop
        self.reach = 4 + max(len(text.encode()) for text in stop)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        last = input_ids[:, max(self.begin, input_ids.shape[1] - self.reach) :]
        texts = self.tokenizer.batch_decode(last, skip_special_tokens=True)
        return torch.tensor([any(s in text for s in self.stop) for text in texts], device=input_ids.device)


def _continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    most: int,
    stop: Sequence[str],
    temperature: float,
) -> list[str]:
    longest, device = max(map(len, prompts)), model.device
    pad = padding(tokenizer)
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = sorted({t for t in (tokenizer.eos_token_id, tokenizer.bos_token_id) if t is not None})
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    # All that could bend the search is set, because what is left out is taken from the model's own settings.
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=1, max_new_tokens=most, eos_token_id=ends or None, pad_token_id=pad,
        repetition_penalty=1.0, no_repeat_ngram_size=0, bos_token_id=tokenizer.bos_token_id,
        **(drawn if temperature else {"do_sample": False}),
    )  # fmt: skip
    stopping = StoppingCriteriaList([_Stopped(tokenizer, longest, stop)] if stop else [])
    made: Tensor = model.generate(  # type: ignore[operator]
        ids, attention_mask=mask, generation_config=plain, stopping_criteria=stopping
    )
    return [_until(tokenizer, new, ends, stop) for new in made[:, longest:].tolist()]


def _until(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int], stop: Sequence[str]) -> str:
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]
