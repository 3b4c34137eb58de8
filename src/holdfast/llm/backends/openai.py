"""Any endpoint that speaks OpenAI's chat completions; its parameters are out of reach."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from holdfast._errors import HoldfastError, Unsupported
from holdfast.llm.backends.base import BaseLLM, LLMResponse, asked, backends

API = "https://api.openai.com/v1"


@backends.register("openai")
class OpenAILLM(BaseLLM):
    """Asks `api_base` (OpenAI's own where none is given) by HTTP; `api_key` is sent where there is one.

    The confidence is the mean probability of the answer's tokens where the endpoint tells log-probabilities, else None.
    """

    @property
    def model(self) -> NoReturn:
        raise Unsupported(
            f"The parameters of {self.config.model_name} are behind an endpoint: they can be neither read, frozen nor "
            "updated from here. Use the backend `huggingface` with the model's folder, or `tiny`."
        )

    def generate(self, prompt: str, **kwargs: Any) -> LLMResponse:
        """Answer a prompt; raises HoldfastError where the endpoint cannot be reached or refuses."""
        settings = asked(self.config, kwargs)
        answer = self._post(
            {
                "model": settings["model_name"],
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": settings["max_length"],
                "temperature": settings["temperature"] if settings["do_sample"] else 0,
                "top_p": settings["top_p"],
                "seed": settings["seed"],
                "logprobs": True,
            },
            settings,
        )
        try:
            choice = answer["choices"][0]
            text = str(choice["message"]["content"] or "")
        except (LookupError, TypeError) as error:
            raise HoldfastError(f"{self._address} gave no chat completion: {str(answer)[:200]}") from error
        metadata = {"backend": "openai", "finish_reason": choice.get("finish_reason"), "usage": answer.get("usage")}
        return LLMResponse(text, _confidence(choice), metadata=metadata)

    @property
    def _address(self) -> str:
        return f"{(self.config.api_base or API).rstrip('/')}/chat/completions"

    def _post(self, body: dict[str, Any], settings: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if settings["api_key"]:
            headers["Authorization"] = f"Bearer {settings['api_key']}"
        request = Request(self._address, json.dumps(body).encode(), headers)
        try:
            with urlopen(request, timeout=settings["timeout"]) as reply:
                return json.loads(reply.read())
        except HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:300]
            raise HoldfastError(f"{self._address} answered {error.code} {error.reason}: {said}") from error
        except (OSError, ValueError) as error:
            raise HoldfastError(f"{self._address} cannot be asked ({error}). Check `api_base`.") from error


def _confidence(choice: dict[str, Any]) -> float | None:
    told = (choice.get("logprobs") or {}).get("content") or []
    chances = [math.exp(token["logprob"]) for token in told]
    return sum(chances) / len(chances) if chances else None
