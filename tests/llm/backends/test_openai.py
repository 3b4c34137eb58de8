"""The endpoint's side is played by a real HTTP server in this process, which notes what it was asked."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from holdfast._errors import HoldfastError, Unsupported
from holdfast.llm import BaseLLM, FrozenAdaptiveLLM, create_llm, create_llm_config


class Endpoint(ThreadingHTTPServer):
    """Answers every request with `reply` under `status`, and notes address, headers and body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.reply = 200, b""
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers, body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.reply)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def completion(text: str, chances: list[float] | None = None) -> bytes:
    told = None if chances is None else {"content": [{"token": "x", "logprob": math.log(p)} for p in chances]}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": told}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 7}}).encode()


def llm(endpoint: Endpoint, **settings: Any) -> BaseLLM:
    return create_llm(create_llm_config("openai", "some-model", api_base=endpoint.base, timeout=10.0, **settings))


def test_an_answer_with_its_confidence(endpoint: Endpoint) -> None:
    endpoint.reply = completion("Hello.", [0.5, 0.25])
    answer = llm(endpoint, api_key="the key", temperature=0.4, max_length=9, seed=3).generate("Hi")
    assert answer.text == "Hello."
    assert answer.confidence == pytest.approx(0.375)
    assert answer.metadata == {"backend": "openai", "finish_reason": "stop", "usage": {"total_tokens": 7}}
    path, headers, body = endpoint.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer the key"
    assert body["model"] == "some-model" and body["messages"] == [{"role": "user", "content": "Hi"}]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.4, 9, 3)


def test_no_probabilities_no_confidence_and_no_key_no_header(endpoint: Endpoint) -> None:
    endpoint.reply = completion("Hello.")
    assert llm(endpoint).generate("Hi", do_sample=False).confidence is None
    _, headers, body = endpoint.asked[0]
    assert headers["Authorization"] is None and body["temperature"] == 0


@pytest.mark.parametrize(
    ("status", "reply", "said"),
    [(401, b'{"error": "who are you"}', "401.*who are you"), (200, b"{}", "no chat completion"), (200, b"<", "asked")],
)
def test_a_refusal_is_an_error_not_an_answer(endpoint: Endpoint, status: int, reply: bytes, said: str) -> None:
    endpoint.status, endpoint.reply = status, reply
    with pytest.raises(HoldfastError, match=said) as error:
        llm(endpoint, api_key="the key").generate("Hi")
    assert "the key" not in str(error.value)


def test_nobody_there() -> None:
    lonely = create_llm(create_llm_config("openai", "m", api_base="http://127.0.0.1:1/v1", timeout=5.0))
    with pytest.raises(HoldfastError, match="api_base"):
        lonely.generate("Hi")


def test_its_parameters_are_out_of_reach_and_it_says_so() -> None:
    far = create_llm(create_llm_config("openai", "m", api_key="the key"))
    for attempt in (
        far.get_parameters,
        lambda: far.update_parameters({"w": [1.0]}),
        lambda: FrozenAdaptiveLLM(far),
    ):
        with pytest.raises(Unsupported, match="neither read, frozen nor updated"):
            attempt()
    assert "the key" not in repr(far.config)
