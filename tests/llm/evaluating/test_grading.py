"""Grades, ways of marking, judges, and answers that cannot be marked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast._errors import BadInput, UnknownName
from holdfast.base import Base, load_base
from holdfast.data.formats import Completion
from holdfast.llm import DomainKnowledgeEvaluator
from holdfast.llm.evaluating.grading import GRADES, POINTLESS, grade, marked, marking, number_of


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny")


class Judge:
    def __init__(self, *said: str):
        self.said, self.asked = list(said), list[str]()

    def generate(self, prompt: str, **kwargs: Any) -> str:
        self.asked.append(prompt)
        return self.said.pop(0)


def test_the_five_grades() -> None:
    shares = {1.0: 1.0, 0.8: 1.0, 0.79: 0.8, 0.6: 0.8, 0.59: 0.6, 0.4: 0.6, 0.39: 0.4, 0.2: 0.4, 0.19: 0.2, 0.0: 0.2}
    assert {share: grade(share)[0] for share in shares} == shares
    assert [feedback.split(":")[0] for _, _, feedback in GRADES] == ["优秀", "良好", "一般", "较差", "差"]


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("8", 8),
        ("10", 10),
        ("0", 0),
        (" 7.5\n", 7.5),
        ("Score: 6", 6),
        ("**Score:** 9/10", 9),
        ("评分\uff1a8", 8),
        ("得分为 4 分", 4),
        ("我给八分", 8),
        ("\uff19", 9),
        ("满分10分,这个回答得7分。", 7),
        ("Out of 10 points I would say 6", 6),
        ("It names 2 of 3 points.\nRating: 5 out of 10", 5),
        ("<think>maybe 3, or 4</think>6", 6),
    ],
)
def test_a_judges_number_is_found(text: str, mark: float) -> None:
    assert number_of(text) == mark


@pytest.mark.parametrize("text", ["", "good", "85", "Score: 85/100", "-3", "95%", "<think>8"])
def test_no_number_is_an_error(text: str) -> None:
    with pytest.raises(BadInput, match="no number from 0 to 10"):
        number_of(text)


def test_coverage_knows_chinese_and_leaves_out_the_question(base: Base) -> None:
    mark = marking("coverage", base.model, base.tokenizer, None)
    asked = Completion("光合作用是什么?", "光合作用把光能变成化学能,并放出氧气")
    whole = marked(mark, "植物把光能变成化学能并放出氧气", asked)
    assert whole["raw_score"] == 1.0 and whole["feedback"] == GRADES[0][2]
    assert marked(mark, "光合作用是光合作用", asked)["raw_score"] == 0.0
    assert 0 < marked(mark, "放出氧气", asked)["raw_score"] < 0.6


def test_exact_f1_and_embedding(base: Base) -> None:
    asked = Completion("Who?", "The big dog")
    given = {"The big dog": (1, 1, 1), "a dog": (0, 2 / 3, None), "": (0, 0, 0)}
    for answer, (exact, f1, alike) in given.items():
        shares = [
            marked(marking(name, base.model, base.tokenizer, None), answer, asked)["raw_score"]
            for name in ("exact", "token_f1", "embedding")
        ]
        assert shares[:2] == pytest.approx([exact, f1]) and 0 <= shares[2] <= 1 + 1e-6
        assert alike is None or shares[2] == pytest.approx(alike, abs=1e-6)


def test_a_way_of_marking_that_there_is_not(base: Base) -> None:
    with pytest.raises(UnknownName, match="coverage"):
        DomainKnowledgeEvaluator(base.model, base.tokenizer, scoring="coverag")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="create_llm"):
        DomainKnowledgeEvaluator(base.model, base.tokenizer, scoring="judge")


def test_what_cannot_be_marked_is_an_error_and_counts_in_no_average(
    base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Judge("8", "no idea")
    evaluator = DomainKnowledgeEvaluator(base.model, base.tokenizer, scoring="judge", judge=judge, max_new_tokens=4)
    evaluator.add_evaluation_set("x", ["What is it?", "Who is it?"], ["a dog", "a cat"])
    told = evaluator.evaluate_domain_knowledge("x")
    assert told["average_score"] == 1.0 and told["average_raw_score"]["mean"] == 0.8 and told["scored_questions"] == 1
    assert "no number" in told["question_results"][1]["error"] and "score" not in told["question_results"][1]
    assert "评分过程出错: " in capsys.readouterr().out and "参考答案: a dog" in judge.asked[0]


def test_a_field_without_any_mark_is_an_error_everywhere(base: Base) -> None:
    evaluator = DomainKnowledgeEvaluator(base.model, base.tokenizer, max_new_tokens=4)
    evaluator.add_evaluation_set("empty", ["What is it?"], ["it is"])
    evaluator.add_evaluation_set("none", [], [])
    told = evaluator.evaluate_all_domains()
    assert told["empty"]["question_results"][0]["error"] == POINTLESS
    assert "error" in told["empty"] and "error" in told["none"] and "overall_average_score" not in told
    report = json.loads(evaluator.generate_knowledge_retention_report(told, told))
    assert set(report["knowledge_retention"]["empty"]) == {"error"}


def test_retention_is_paired_and_signed() -> None:
    def told(scores: list[float]) -> dict[str, Any]:
        results = [{"question": str(i), "score": grade(score)[0], "raw_score": score} for i, score in enumerate(scores)]
        return {"x": {"average_score": sum(r["score"] for r in results) / len(results), "question_results": results}}

    made = DomainKnowledgeEvaluator(*2 * [None], max_new_tokens=4)  # type: ignore[arg-type, list-item]
    low, high = [0.3 + 0.01 * i for i in range(20)], [0.7 + 0.01 * i for i in range(20)]
    up = json.loads(made.generate_knowledge_retention_report(told(low), told(high)))["knowledge_retention"]["x"]
    assert up["retention_rate_percent"] == 100 and up["signed_retention_rate_percent"]["low"] > 120
    assert up["verdict"] == "improved" and up["status"] == "优秀:知识保留良好"
    down = json.loads(made.generate_knowledge_retention_report(told(high), told(low)))["knowledge_retention"]["x"]
    assert down["verdict"] == "forgot" and down["status"] == "一般:知识部分保留"
    statuses = [
        json.loads(made.generate_knowledge_retention_report({"x": {"average_score": 1.0}}, {"x": {"average_score": s}}))
        for s in (0.9, 0.7, 0.5, 0.49)
    ]
    words = ["优秀:知识保留良好", "良好:知识大部分保留", "一般:知识部分保留", "较差:知识严重遗忘"]
    assert [told["knowledge_retention"]["x"]["status"] for told in statuses] == words
