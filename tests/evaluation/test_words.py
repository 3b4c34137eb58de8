"""Words and points of an answer, in English and in Chinese."""

from __future__ import annotations

from holdfast.evaluation.metrics.words import normalised, points, words


def test_words_are_lower_case_without_marks_and_han_text_is_cut_into_characters() -> None:
    assert words("Don’t stop: 3.5 Times!") == ["don’t", "stop", "3", "5", "times"]
    assert words("我爱ＡＢＣ") == ["我", "爱", "abc"]
    assert words("") == words("…!?") == []


def test_articles_are_no_part_of_an_answer() -> None:
    assert normalised("The cat and a dog") == ["cat", "and", "dog"]


def test_points_leave_out_words_that_carry_none() -> None:
    assert points("It is in the cells of the plants") == {"cells", "plants"}
    assert points("植物的细胞") == {"植物", "细胞"}
    assert points("水") == {"水"}
    assert points("光合作用") == {"光合", "合作", "作用"}
    assert points("the of 的") == set()
