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
