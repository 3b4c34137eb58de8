"""The domain knowledge evaluator of chapter 9: questions of a field, answers that are graded, and what was retained."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from holdfast.data.formats import Completion
from holdfast.evaluation.change import change
from holdfast.evaluation.metrics.answers import answers
from holdfast.evaluation.metrics.registry import room
from holdfast.evaluation.scored import Floats, shares
from holdfast.evaluation.statistics import mean_interval, resampled
from holdfast.llm.evaluating.asking import as_asked, asker
from holdfast.llm.evaluating.comprehensive import as_json
from holdfast.llm.evaluating.faults import Misused
from holdfast.llm.evaluating.grading import Mark, marked, marking
from holdfast.llm.evaluating.making import made_set
from holdfast.llm.evaluating.rates import interval

logger = logging.getLogger(__name__)

Scoring = Literal["coverage", "exact", "token_f1", "embedding", "judge"]

STATUSES = ((90, "优秀:知识保留良好"), (70, "良好:知识大部分保留"), (50, "一般:知识部分保留"))
"""From which percentage on knowledge counts as how well retained."""

FORGOTTEN, OVERALL = "较差:知识严重遗忘", "总体知识保留情况"

Told = dict[str, Any]


class DomainKnowledgeEvaluator:
    """Asks models questions of a field; `evaluation_sets` holds the questions with their right answers, by field.

    `scoring` says how answers are marked, from 0 to 1: `coverage`, the share of the right answer's points that are
    named (points of the question do not count; Chinese by pairs of characters); `exact`; `token_f1`; `embedding`, the
    cosine of mean input embeddings of `model`, around the mean of its vocabulary, which tells the subject but not
    whether a thing is said or denied; or `judge`, what `judge` (anything with `generate(prompt)`) gives out of ten.
    The share becomes one of the guide's five grades, 0.2 to 1.0. An answer that cannot be marked has an `error` and
    counts in no average.

    Answers are greedy, always the same, of at most `max_new_tokens` (no more than half of what the model reads); above
    0, `temperature` draws them, from `seed`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        scoring: Scoring = "coverage",
        judge: Any = None,
        max_new_tokens: int = 500,
        temperature: float = 0.0,
        seed: int = 0,
    ):
        self.model, self.tokenizer, self.scoring = model, tokenizer, scoring
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self.evaluation_sets: dict[str, dict[str, list[str]]] = {}
        self._mark: Mark = marking(scoring, model, tokenizer, judge)

    def add_evaluation_set(self, domain_name: str, questions: Sequence[str], ground_truths: Sequence[str]) -> None:
        """Keep the questions of a field with their right answers; raises Misused, a ValueError, unless as many."""
        if len(questions) != len(ground_truths):
            raise Misused("问题数量必须与参考答案数量相同: each question needs one right answer.")
        self.evaluation_sets[domain_name] = {"questions": list(questions), "ground_truths": list(ground_truths)}
        print(f"已添加 {domain_name} 领域的评估集,包含 {len(questions)} 个问题")

    def load_evaluation_set_from_json(self, file_path: str | Path, domain_name: str | None = None) -> bool:
        """Keep the set of a file with `questions`, `ground_truths` and `domain_name`; False, with the reason printed,
        where that cannot be done. An argument goes before the file's own name."""
        try:
            data = json.loads(Path(file_path).read_text("utf-8"))
            if domain_name is None:
                if "domain_name" not in data:
                    raise Misused("文件中没有指定领域名称,且未提供domain_name参数")
                domain_name = data["domain_name"]
            if "questions" not in data or "ground_truths" not in data:
                raise Misused("JSON文件必须包含'questions'和'ground_truths'字段")
            self.add_evaluation_set(domain_name, data["questions"], data["ground_truths"])
        except (OSError, ValueError, TypeError) as error:
            print(f"加载评估集失败: {error}")
            return False
        return True

    def generate_domain_knowledge_qa(
        self,
        domain_name: str,
        num_questions: int = 50,
        output_file: str | Path | None = None,
        *,
        generator: Any = None,
    ) -> Told:
        """Let `generator` (anything with `generate(prompt)`, as `create_llm` makes; None: the model itself) write
        questions and their answers; the set is kept, and returned with its `domain_name`.

        Where there are too few questions it is asked again, five times at most; a warning says how many there are.
        With `output_file`, what is there is written after each answer, and a second call goes on from there. What a
        model thinks is right is as right as the model is: have somebody read it. Raises BadInput where nothing can be
        read as a question, and for a file that holds anything else.
        """
        ask = asker(self.model, self.tokenizer, generator)
        found = made_set(ask, domain_name, num_questions, None if output_file is None else Path(output_file))
        self.add_evaluation_set(domain_name, found["questions"], found["ground_truths"])
        return found

    def evaluate_domain_knowledge(
        self, domain_name: str, evaluate_model: PreTrainedModel | None = None, max_questions: int | None = None
    ) -> Told:
        """Let a model (None: that of the evaluator) answer the first `max_questions` of a field, and grade it.

        `average_score` is the mean of grades, `average_raw_score` that of the shares that they stand for, with its
        interval. Where no answer can be marked there is an `error` instead. Raises Misused, which is a ValueError, for
        a field that is not known.
        """
        if domain_name not in self.evaluation_sets:
            raise Misused(f"领域 {domain_name} 不存在于评估集中")
        known = self.evaluation_sets[domain_name]
        most = max_questions or len(known["questions"])
        asked, right = known["questions"][:most], known["ground_truths"][:most]
        print(f"开始评估模型在 {domain_name} 领域的知识,共 {len(asked)} 个问题")
        written = self._answers(self.model if evaluate_model is None else evaluate_model, asked)
        results = []
        for i, (question, truth, answer) in enumerate(zip(asked, right, written, strict=True), start=1):
            print(f"评估问题 {i}/{len(asked)}: {question}")
            found = marked(self._mark, answer, Completion(question, truth))
            results.append({"question": question, "ground_truth": truth, "generated_answer": answer, **found})
        told = {"domain_name": domain_name, "total_questions": len(asked), **_averages(results)}
        if "average_score" in told:
            print(f"领域 {domain_name} 知识评估完成,平均分数: {told['average_score']:.2f}/1.0")
        return {**told, "scoring": self.scoring, "question_results": results}

    def evaluate_all_domains(
        self, evaluate_model: PreTrainedModel | None = None, max_questions_per_domain: int | None = None
    ) -> Told:
        """`evaluate_domain_knowledge` of each field, and `overall_average_score`, the mean over those that have one."""
        results: Told = {}
        for name in self.evaluation_sets:
            try:
                results[name] = self.evaluate_domain_knowledge(name, evaluate_model, max_questions_per_domain)
            except Exception as error:  # one field that fails is not to cost the others
                print(f"评估领域 {name} 时出错: {error}")
                results[name] = {"error": str(error)}
        if scores := [result["average_score"] for result in results.values() if "average_score" in result]:
            results["overall_average_score"] = sum(scores) / len(scores)
            print(f"所有领域的总体平均分数: {results['overall_average_score']:.2f}/1.0")
        return results

    def generate_knowledge_retention_report(
        self,
        pretrained_results: Mapping[str, Any],
        finetuned_results: Mapping[str, Any],
        output_file: str | Path | None = None,
    ) -> str:
        """What of each field was retained, as JSON, from two results of `evaluate_all_domains`.

        `retention_rate_percent` is never above 100; `signed_retention_rate_percent` is, with its interval over the
        questions that both were graded on, and `status` follows its mean. Grades have a floor of 0.2, so the lowest
        possible rate is 20; `verdict` is said of the shares behind the grades, paired. A field with an error has that.
        """
        fields = [name for name in pretrained_results if name in finetuned_results and name != "overall_average_score"]
        kept = {name: _retained(pretrained_results[name], finetuned_results[name]) for name in fields}
        if "overall_average_score" in pretrained_results and "overall_average_score" in finetuned_results:
            pair = [float(side["overall_average_score"]) for side in (pretrained_results, finetuned_results)]
            kept["overall"] = {**_compared(*pair), "status": OVERALL}
        report = {"knowledge_retention": kept, "generated_at": date.today().isoformat()}
        return as_json(report, output_file, "知识保留报告已保存到")

    def _answers(self, model: PreTrainedModel, asked: Sequence[str]) -> list[str]:
        most = min(self.max_new_tokens, room(model) // 2)
        drawn = {"temperature": self.temperature, "seed": self.seed}
        tasks = as_asked(model, self.tokenizer, asked)
        return [a.strip() for a in answers(model, self.tokenizer, tasks, max_new_tokens=most, stop=(), **drawn)]  # type: ignore[arg-type]


def _averages(results: Sequence[Told]) -> Told:
    good = [result for result in results if "error" not in result]
    if not good:
        return {"error": "no answer could be marked" if results else "there is no question"}
    raw = mean_interval([result["raw_score"] for result in good])
    return {
        "average_score": sum(result["score"] for result in good) / len(good),
        "average_raw_score": interval(raw),
        "scored_questions": len(good),
    }


def _retained(before: Mapping[str, Any], after: Mapping[str, Any]) -> Told:
    """One field's entry in the report."""
    for side in (before, after):
        if "average_score" not in side:
            return {"error": str(side.get("error", "it has no average_score"))}
    told = _compared(float(before["average_score"]), float(after["average_score"]))
    pairs = _pairs(before, after)
    if len(pairs):
        signed = interval(resampled(pairs[:, :2], _percent))
        told["signed_retention_rate_percent"] = signed
        told["verdict"] = change(shares(pairs[:, 2]), shares(pairs[:, 3])).verdict()
    rate = told.get("signed_retention_rate_percent", {}).get("mean", told["retention_rate_percent"])
    return {**told, "status": next((status for least, status in STATUSES if rate >= least), FORGOTTEN)}


def _compared(before: float, after: float) -> Told:
    rate = min(100.0, after / before * 100) if before > 0 else 0.0
    return {
        "pretrained_score": before,
        "finetuned_score": after,
        "score_change": after - before,
        "retention_rate_percent": rate,
    }


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Floats:
    """Grades before and after, then shares before and after, of questions that both were graded on, [n, 4]."""
    sides = [side.get("question_results") or () for side in (before, after)]
    found = [
        [first["score"], last["score"], first["raw_score"], last["raw_score"]]
        for first, last in zip(*sides, strict=False)
        if first["question"] == last["question"] and "raw_score" in first and "raw_score" in last
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 4)


def _percent(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = 100 * sums[..., 1] / sums[..., 0]
    return found
