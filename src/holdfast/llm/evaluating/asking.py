"""Asking a model for questions and answers, and reading what it writes back."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast.base import Base
from holdfast.data.formats import Completion
from holdfast.data.rows import tokens
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.metrics.registry import room
from holdfast.evaluation.suites import questions
from holdfast.llm.backends.base import BaseLLM
from holdfast.llm.backends.huggingface import HuggingFaceLLM

Ask = Callable[[str, int, float, int], str]
"""What is written after a prompt, with at most so many new tokens, at a temperature and from a seed."""

QUESTIONS = """请为{domain}领域生成{count}个专业知识问题。
问题应该涵盖该领域的核心概念、重要原理和实用技术。
问题难度应该从基础到高级都有覆盖。
每个问题应该具体、明确,且能够检验对该领域的真实理解。

请以以下格式输出问题列表:
[
    "问题1",
    "问题2",
    ...
]
"""

BESIDES = "\n请不要重复以下问题:\n{known}\n"
"""What is added where some questions are there already."""

ANSWER = """请为以下{domain}领域的问题提供准确、全面的专业答案:
{question}

答案应该:
1. 准确无误,符合该领域的最新知识
2. 全面覆盖问题的各个方面
3. 使用专业但清晰的语言
4. 包含必要的细节和解释
"""


def asker(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generator: Any) -> Ask:
    """Who is asked: the generator where there is one, else the model."""
    if generator is not None:
        return lambda prompt, new, temperature, seed: reply(
            generator, prompt, new=new, temperature=temperature, seed=seed
        )

    def ask(prompt: str, new: int, temperature: float, seed: int) -> str:
        task = as_asked(model, tokenizer, [prompt])
        most = min(new, room(model) // 2)
        (text,) = answers(model, tokenizer, task, max_new_tokens=most, stop=(), temperature=temperature, seed=seed)
        return text.strip()

    return ask


def as_asked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[Completion]:
    """Prompts as a model is asked them: in its chat template where it has one, else with a line end."""
    suite = questions("questions", prompts, [""] * len(prompts))
    return [r for r in suite.asked(Base(model, tokenizer, "model", "")) if isinstance(r, Completion)]


def reply(llm: Any, prompt: str, *, new: int, temperature: float, seed: int = 0) -> str:
    """What anything with `generate(prompt)` answers, a text or an object with a `text`; without the prompt itself."""
    settings: dict[str, Any] = {}
    if isinstance(llm, BaseLLM):
        drawn = {"temperature": temperature} if temperature else {"do_sample": False}
        own = _length(llm, prompt) if isinstance(llm, HuggingFaceLLM) else 0
        settings = {"max_length": new + own, "seed": seed, **drawn}
    answer = llm.generate(prompt, **settings)
    return str(getattr(answer, "text", answer)).strip().removeprefix(prompt.strip()).strip()


def _length(llm: HuggingFaceLLM, prompt: str) -> int:
    """Tokens of a prompt, with room for a chat template: such a model counts them to what it may write."""
    return len(tokens(llm.base.tokenizer, prompt)) + (64 if llm.base.tokenizer.chat_template else 1)


def questions_in(text: str) -> tuple[list[str], bool]:
    """The questions that a text lists, each once, and whether they stood in a list as was asked for.

    A list in JSON or Python, anywhere and also one that was cut off; else numbered or bulleted lines; else lines that
    end as questions do; else all lines.

    >>> questions_in('Sure! ["What is RNA?", "What is a gene?"] Anything else?')
    (['What is RNA?', 'What is a gene?'], True)
    >>> questions_in('Here they are:\\n1. What is RNA?\\n2) What is a gene?')
    (['What is RNA?', 'What is a gene?'], False)
    """
    text = re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.S)
    listed = max(_lists(text), key=len, default=[])
    found = listed or _cut_off(text)
    return unlike([], found or _lines(text)), bool(found)


def unlike(known: Sequence[str], found: Sequence[str]) -> list[str]:
    """Those of `found` that are new, each once; case, blanks and punctuation make no difference."""
    seen = {_key(question) for question in known}
    kept = []
    for question in map(str.strip, found):
        key = _key(question)
        if key and key not in seen and not _PLACEHOLDER.fullmatch(question):
            seen.add(key)
            kept.append(question)
    return kept


_PLACEHOLDER = re.compile(r"(问题|question)\s*\d*|[.…。\s]+", re.IGNORECASE)
"""What the prompt shows in the place of a question."""

_MARK = re.compile(
    r"^\s*(?:#+\s*)?"
    r"(?:\**\s*(?:问题|question|q)?\s*[(\uff08]?\d{1,3}\s*[.\u3001)\uff09:\uff1a\uff0e](?!\d)|[-*\u2022\u00b7\u2013\u25cf])\s*(.+)$",
    re.IGNORECASE,
)
"""A line of a numbered or bulleted list."""


def _key(question: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", question).casefold())


def _lists(text: str) -> Iterator[list[str]]:
    """All lists of questions in a text."""
    for at in (match.start() for match in re.finditer(r"\[", text)):
        if found := _texts(_decoded(text[at:])):
            yield found


def _decoded(text: str) -> Any:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except ValueError:
        pass
    try:
        return ast.literal_eval(text[: text.index("]") + 1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _texts(found: Any) -> list[str]:
    """The questions of a list: its texts, or those of its mappings."""
    if not isinstance(found, list):
        return []
    keys = ("question", "问题", "q", "text")
    each = (next((one[k] for k in keys if k in one), None) if isinstance(one, dict) else one for one in found)
    return [one for one in each if isinstance(one, str)]


def _cut_off(text: str) -> list[str]:
    """The whole texts of a JSON list that is cut off or holds what JSON does not know."""
    begun = re.search(r"\[\s*\"", text)
    if begun is None:
        return []
    found = re.findall(r"\"(?:[^\"\\\n]|\\.)*\"(?=\s*[,\]\n])", text[begun.start() :])
    return [one for one in map(_decoded, found) if isinstance(one, str)]


def _lines(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    marked = [match[1] for match in map(_MARK.match, lines) if match]
    asking = [line for line in lines if line.strip().rstrip("\"'”*").endswith(("?", "\uff1f"))]
    return [line.strip(" \t\"'“”*,[]") for line in marked or asking or lines]
