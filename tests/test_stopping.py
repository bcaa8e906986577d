import pytest

from n1n_prefect import stopping
from n1n_prefect.errors import N1nError


@pytest.fixture(autouse=True)
def forgotten():
    yield
    stopping.forget()


def test_nobody_asked():
    stopping.refuse()
    assert not stopping.is_asked()
    assert stopping.seconds_left() == float("inf")


def test_from_then_on_nothing_is_begun():
    stopping.ask(20)
    assert stopping.is_asked()
    assert 0 < stopping.seconds_left() <= 20
    assert stopping.wait(3600), "a wait ends at once"
    with pytest.raises(N1nError, match="nothing was sent") as caught:
        stopping.refuse()
    assert (caught.value.is_transient, caught.value.charged) == (True, "no")


def test_a_process_may_go_on_after_all():
    stopping.ask(0)
    stopping.forget()
    stopping.refuse()


def test_asked_again_there_is_no_more_time():
    stopping.ask(0)
    stopping.ask(20)
    assert stopping.seconds_left() == 0


def test_it_is_late_some_time_after_the_end():
    assert not stopping.is_late(0)
    stopping.ask(0)
    assert stopping.is_late(0)
    assert not stopping.is_late(3600)
