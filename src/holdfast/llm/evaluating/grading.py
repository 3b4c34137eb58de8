"""How answers are marked: a share from 0 to 1 by one of five ways, and the guide's five grades with their feedback."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast._errors import BadInput, UnknownName
from holdfast.data.formats import Completion
from holdfast.data.rows import tokens
from holdfast.evaluation.metrics.written import coverage, matches, token_f1
from holdfast.llm.evaluating.asking import reply

Mark = Callable[[str, Completion], float]
"""The share of an answer that is right, from the answer and the question with its right answer."""

GRADES = (
    (0.8, 1.0, "优秀:覆盖了几乎所有关键知识点"),
    (0.6, 0.8, "良好:覆盖了大部分关键知识点"),
    (0.4, 0.6, "一般:覆盖了部分关键知识点"),
    (0.2, 0.4, "较差:只覆盖了少数关键知识点"),
    (-math.inf, 0.2, "差:几乎没有覆盖关键知识点"),
)
"""From which share on an answer has which score and feedback."""

POINTLESS = "无法从参考答案中提取有效关键词"
"""What is said of a right answer without any point of its own."""

SCORINGS = ("coverage", "exact", "token_f1", "embedding", "judge")

JUDGING = """请根据参考答案给下面的回答打分,0分最低,10分最高。只输出一个数字。
问题: {question}
参考答案: {right}
回答: {answer}
分数:"""


def grade(share: float) -> tuple[float, str]:
    """The guide's score and feedback for a share of what was to be said.

    >>> [grade(share)[0] for share in (0.8, 0.79, 0.0)]
    [1.0, 0.8, 0.2]
    """
    return next((score, feedback) for least, score, feedback in GRADES if share >= least)


def marking(scoring: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Any) -> Mark:
    """The way of marking of that name; raises UnknownName, and BadInput for a judge that is missing."""
    if scoring == "judge":
        if not hasattr(judge, "generate"):
            raise BadInput("scoring='judge' needs `judge=`: anything with `generate(prompt)`, as create_llm makes.")
        return partial(_judged, judge)
    if scoring == "embedding":
        return _alike(model, tokenizer)
    known: dict[str, Mark] = {"coverage": coverage, "exact": matches, "token_f1": token_f1}
    if scoring not in known:
        raise UnknownName("scoring of answers called", scoring, SCORINGS)
    return known[scoring]


def marked(mark: Mark, answer: str, task: Completion) -> dict[str, Any]:
    """Score, feedback and the share itself, `raw_score`, or an `error` where the answer cannot be marked."""
    try:
        share = float(mark(answer, task))
    except Exception as error:
        print(f"评分过程出错: {error}")
        return {"error": f"{type(error).__name__}: {error}"}
    if math.isnan(share):
        return {"error": POINTLESS}
    score, feedback = grade(share)
    return {"score": score, "feedback": feedback, "raw_score": share}


def number_of(text: str) -> float:
    """The number from 0 to 10 that a judge's answer gives, however it is worded; raises BadInput where it gives none.

    >>> [number_of(text) for text in ("8", "Score: 7.5 out of 10", "满分10分,我给六分。", "I give 3/10.")]
    [8.0, 7.5, 6.0, 3.0]
    """
    said = unicodedata.normalize("NFKC", re.sub(r"<think>.*?(</think>|$)", "", text, flags=re.S))
    for pattern in _PATTERNS:
        if found := [_value(match) for match in re.findall(pattern, said, re.IGNORECASE)]:
            if 0 <= found[-1] <= 10:
                return found[-1]
            break
    raise BadInput(f"The judge gave no number from 0 to 10: {text[:100]!r}.")


_NUMBER = r"(-?\d+(?:\.\d+)?|[零一二三四五六七八九十])(?![\d%])"
_PATTERNS = (
    rf"{_NUMBER}\s*(?:/|out of)\s*10(?!\d)",
    rf"(?:score|mark|rating|grade|评分|得分|分数|打分)\**\s*(?:is|of|为|是|[:=])?\s*\**\s*{_NUMBER}",
    rf"(?<![满\d.]){_NUMBER}\s*分(?!制|数|为|之)",
    rf"(?<![\w.]){_NUMBER}",
)
"""How a mark is worded, the surest first: of ten, behind its name, before its unit, alone."""


def _value(text: str) -> float:
    return float("零一二三四五六七八九十".index(text)) if text in "零一二三四五六七八九十" else float(text)


def _judged(judge: Any, answer: str, task: Completion) -> float:
    asked = JUDGING.format(question=task.prompt.strip(), right=task.completion.strip(), answer=answer.strip())
    return number_of(reply(judge, asked, new=512, temperature=0.0)) / 10


def _alike(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Mark:
    """The cosine of mean input embeddings of this model, as they are now, around the mean of all; at least 0."""
    table: Any = model.get_input_embeddings()
    vectors: Tensor = table.weight.detach().float().cpu().clone()
    vectors -= vectors.mean(dim=0)

    def mean(text: str) -> Tensor:
        ids: Sequence[int] = tokens(tokenizer, text.strip())
        return vectors[torch.tensor(ids)].mean(dim=0) if ids else torch.zeros(vectors.shape[1])

    def mark(answer: str, task: Completion) -> float:
        return max(0.0, float(torch.cosine_similarity(mean(answer), mean(task.completion), dim=0)))

    return mark
