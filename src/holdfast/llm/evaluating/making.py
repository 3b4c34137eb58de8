"""Making a set of questions and answers with a model, a step at a time, so that an interruption costs one answer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from holdfast._errors import BadInput
from holdfast.evaluation.plain import write_json
from holdfast.llm.evaluating.asking import ANSWER, BESIDES, QUESTIONS, Ask, questions_in, unlike

logger = logging.getLogger(__name__)

ASKED, QUESTION_TOKENS, ANSWER_TOKENS = 5, 2000, 1000
"""How often questions are asked for at most, and new tokens of a list of questions and of an answer."""


def made_set(ask: Ask, domain: str, count: int, file: Path | None) -> dict[str, Any]:
    """`domain_name`, `questions` and `ground_truths`; see `DomainKnowledgeEvaluator.generate_domain_knowledge_qa`."""
    found = _begun(file, domain)
    questions, truths = found["questions"], found["ground_truths"]
    if len(questions) < count:
        print(f"正在生成{domain}领域的问题...")
        _ask_for_questions(ask, found, count, file)
    print("正在为问题生成参考答案...")
    for i in range(len(truths), len(questions)):
        print(f"生成问题{i + 1}/{len(questions)}的参考答案...")
        prompt = ANSWER.format(domain=domain, question=questions[i])
        truths.append(ask(prompt, ANSWER_TOKENS, 0.3, i))
        _written(found, file)
    if file is not None:
        print(f"评估集已保存到: {file}")
    return found


def _ask_for_questions(ask: Ask, found: dict[str, Any], count: int, file: Path | None) -> None:
    """Ask until there are enough questions, or often enough."""
    questions: list[str] = found["questions"]
    for attempt in range(ASKED):
        prompt = QUESTIONS.format(domain=found["domain_name"], count=count - len(questions))
        prompt += BESIDES.format(known="\n".join(questions)) if questions else ""
        read, listed = questions_in(ask(prompt, QUESTION_TOKENS, 0.7, attempt))
        if not listed:
            print("无法解析JSON格式,将使用备用方法提取问题")
        questions.extend(unlike(questions, read)[: count - len(questions)])
        _written(found, file)
        if len(questions) == count:
            break
    if not questions:
        raise BadInput(f"Nothing that was written in {ASKED} attempts can be read as questions: use another model.")
    print(f"成功提取了{len(questions)}个问题")
    if len(questions) < count:
        logger.warning("There are %d questions, not %d: more than that were not written.", len(questions), count)


def _begun(file: Path | None, domain: str) -> dict[str, Any]:
    """What an earlier call left in the file, or nothing yet."""
    if file is None or not file.exists():
        return {"domain_name": domain, "questions": [], "ground_truths": []}
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
        begun = {key: found[key] for key in ("domain_name", "questions", "ground_truths")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is there and holds no evaluation set ({error}); name another file.") from error
    if begun["domain_name"] != domain or len(begun["ground_truths"]) > len(begun["questions"]):
        raise BadInput(f"{file} holds a set of {begun['domain_name']!r}, not one of {domain!r}; name another file.")
    return begun


def _written(found: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, file)
