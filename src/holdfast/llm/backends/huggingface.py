"""A model of one's own: the embedded one, a local folder, or one from the Hugging Face Hub."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.quiet import quiet
from holdfast.data.rows import start, tokens
from holdfast.llm.backends.base import BaseLLM, LLMConfig, LLMResponse, asked, backends

DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@backends.register("huggingface")
class HuggingFaceLLM(BaseLLM):
    """Loads `model_path` or `model_name` as `load_base` does; `base` is one that is loaded already.

    `generate` answers with the chat template where the tokenizer has one, else it continues the prompt. The text is
    the answer alone; its confidence is the mean probability that the model, unaltered by temperature, top_k and top_p,
    gave to the tokens that were drawn. No random state outside changes.
    """

    def __init__(self, config: LLMConfig, base: Base | None = None):
        super().__init__(config)
        if config.torch_dtype not in DTYPES:
            raise UnknownName("torch_dtype", config.torch_dtype, DTYPES)
        name = config.model_path or config.model_name
        dtype = DTYPES[config.torch_dtype]
        self.base = base or load_base(name, dtype=dtype, trust_remote_code=config.trust_remote_code)
        self._model = _placed(self.base.model, config.device)
        self._drawing = threading.Lock()  # torch draws from one global source of randomness
        self._draws = torch.Generator().manual_seed(config.seed)

    @property
    def model(self) -> nn.Module:
        return self.base.model

    def generate(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """Answer a prompt; keyword arguments are settings of LLMConfig, `seed` included."""
        settings = asked(self.config, kwargs)
        with self.lock.reading(), self._drawing, quiet(self._model) as device:
            ids = self._prompt(prompt, settings["max_length"])
            seed = kwargs.get("seed", int(torch.randint(2**62, (), generator=self._draws)))
            given = torch.tensor([ids], device=device)
            with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
                torch.manual_seed(seed)
                made = self._model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    generation_config=self._generation(settings, len(ids)),
                )
            return self._response(made, len(ids))

    def _prompt(self, prompt: str, length: int) -> list[int]:
        """The tokens of a prompt; one that leaves no room for an answer loses its beginning."""
        tokenizer = self.base.tokenizer
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            ids = tokens(tokenizer, str(text))
        else:
            ids = [*start(tokenizer), *tokens(tokenizer, prompt)]
        return ids[-(self._room(length) - 1) :]

    def _room(self, length: int) -> int:
        room = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return min(length, room or length)

    def _generation(self, settings: Mapping[str, Any], prompt: int) -> GenerationConfig:
        drawn = {name: settings[name] for name in ("temperature", "top_p", "top_k")} if settings["do_sample"] else {}
        end = settings["eos_token_id"]
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._room(settings["max_length"]) - prompt,
            do_sample=settings["do_sample"],
            use_cache=settings["use_cache"],
            eos_token_id=self.base.tokenizer.eos_token_id if end is None else end,
            pad_token_id=self.base.pad_id if settings["pad_token_id"] is None else settings["pad_token_id"],
            return_dict_in_generate=True,
            output_logits=True,
            **drawn,
        )

    def _response(self, made: Any, prompt: int) -> LLMResponse:
        ids = made.sequences[0, -len(made.logits) :].tolist()
        shown = [i for i, token in enumerate(ids) if token not in self.base.tokenizer.all_special_ids]
        metadata = {"backend": self.config.backend, "prompt_tokens": prompt, "tokens": len(ids)}
        text = str(self.base.tokenizer.decode(ids, skip_special_tokens=True))
        return LLMResponse(text, _confidence(made.logits, ids, shown), metadata=metadata)


@backends.register("tiny")
def tiny(config: LLMConfig) -> HuggingFaceLLM:
    """The embedded model, whatever `model_name` says."""
    return HuggingFaceLLM(replace(config, model_path="tiny"))


def _confidence(logits: tuple[Tensor, ...], ids: list[int], shown: list[int]) -> float | None:
    """Mean probability of the shown tokens; `logits` holds one [1, vocabulary] for each token."""
    if not shown:
        return None
    return sum(float(logits[i][0].float().softmax(-1)[ids[i]]) for i in shown) / len(shown)


def _placed(model: Any, device: str) -> Any:
    """The model in evaluation mode on the device of that name."""
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise BadInput(f"There is no device {device!r}. Write auto, cpu, cuda or cuda:0.") from error
    return model.to(place).eval()
