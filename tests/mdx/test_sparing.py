from hypothesis import given
from hypothesis import strategies as st

from mdx.sparing import Sparing


def test_a_few_pass_at_once_and_the_rest_is_counted() -> None:
    sparing = Sparing(at_most=2, seconds=10)

    assert [sparing.let(0), sparing.let(1), sparing.let(2), sparing.let(3)] == [0, 0, None, None]
    assert sparing.let(10) == 2
    assert sparing.let(11) == 0
    assert sparing.let(12) is None


@given(st.lists(st.floats(0, 100)).map(sorted))
def test_nothing_is_lost_from_the_count_and_no_window_has_too_many(times: list[float]) -> None:
    sparing = Sparing(at_most=3, seconds=10)
    answers = [sparing.let(at) for at in times]

    passed = [at for at, answer in zip(times, answers, strict=True) if answer is not None]
    last = max((index for index, answer in enumerate(answers) if answer is not None), default=-1)
    counted = sum(answer for answer in answers if answer is not None)
    assert counted == answers[: last + 1].count(None)
    assert len(passed) <= 3 * (len({int(at // 10) for at in times}) + 1)
