import base64
import threading
from concurrent.futures import Future
from itertools import count

import pytest

from n1n_prefect.batch.inputs import InputChecker, checking_inputs, wrong_with
from n1n_prefect.batch.items import BadRow, Item
from n1n_prefect.errors import SourceError
from n1n_prefect.images import ImageRequest
from n1n_prefect.sources import SourceRules
from tests.image_files import encoded, photo
from tests.s3_servers import Answer

RULES = SourceRules()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(b"a cat")
    (tmp_path / "empty.png").write_bytes(b"")
    return tmp_path


def item(line, *images):
    return Item(f"row {line}", line, ImageRequest("p", images))


def wrong(address, source=None, rules=RULES):
    return wrong_with(address, rules=rules, source=source)


@pytest.fixture
def on_head(s3_location):
    """Calls something before each HEAD of an object."""
    client = s3_location.get_client()
    hooks = []

    def hook(call):
        hooks.append(call)
        client.meta.events.register("before-send.s3.HeadObject", call)

    yield hook
    for call in hooks:
        client.meta.events.unregister("before-send.s3.HeadObject", call)


class TestLocal:
    def test_one_that_is_there(self, folder):
        assert wrong("cat.png") == ""

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("dog.png", "'dog.png' does not exist; correct the path"),
            ("/etc/hostname", "outside"),
            ("empty.png", "'empty.png' is empty, 0 bytes"),
            (".", "is a directory"),
        ],
    )
    def test_one_that_cannot_be_read(self, folder, address, said):
        assert said in wrong(address)

    def test_one_that_is_too_large(self, folder):
        with (folder / "large.png").open("wb") as file:
            file.truncate(7 * 1024**2 + 1)
        assert "has 7,340,033 bytes; at most 7,340,032 are taken of an input image" in wrong("large.png")
        assert "at most 3 are taken" in wrong("cat.png", rules=SourceRules(max_bytes=3))


class TestS3:
    def test_any_bucket_of_the_location(self, s3_location, moto_client):
        moto_client.put_object(Bucket=s3_location.bucket, Key="ein/größer.png", Body=b"a cat")
        assert wrong(f"s3://{s3_location.bucket}/ein/größer.png", s3_location) == ""

    def test_one_that_is_gone(self, s3_location):
        address = f"s3://{s3_location.bucket}/gone.png"
        assert f"Could not find {address}: there is no such object" in wrong(address, s3_location)

    def test_one_that_is_empty(self, s3_location, moto_client):
        moto_client.put_object(Bucket=s3_location.bucket, Key="empty.png", Body=b"")
        assert "is empty, 0 bytes" in wrong(f"s3://{s3_location.bucket}/empty.png", s3_location)

    def test_no_address_of_an_object(self, s3_location):
        assert "needs a bucket and a key" in wrong("s3://gone.png", s3_location)

    def test_without_a_location(self):
        assert "pass source= an S3Location" in wrong("s3://shop/a.png")

    def test_a_store_that_is_busy_says_nothing_about_the_row(self, scripted_store):
        scripted_store.says(*[Answer(503, "SlowDown")] * 5)
        with pytest.raises(SourceError, match="busy or failing") as caught:
            wrong("s3://shop/a.png", scripted_store.server.location("shop"))
        assert caught.value.is_transient

    def test_a_store_that_forbids_it(self, scripted_store):
        scripted_store.says(Answer(403))
        assert "these credentials may not do this" in wrong("s3://b/a.png", scripted_store.server.location("b"))


class TestOthers:
    def test_data_is_looked_at_here(self):
        whole = base64.b64encode(encoded(photo(), "PNG")).decode()
        assert wrong(f"data:image/png;base64,{whole}") == ""
        assert "image is no image" in wrong("data:image/png;base64,QUJD")

    @pytest.mark.parametrize(
        ("address", "said"), [("http://example.com/a.png", "use https://"), ("gs://b/a.png", "give an https://")]
    )
    def test_what_is_never_read(self, address, said):
        assert said in wrong(address)


class TestRows:
    def test_they_keep_their_order_and_bad_ones_their_reason(self, folder):
        rows = [
            item(2),
            item(3, "cat.png"),
            BadRow(4, "x", "bad"),
            item(5, "cat.png", "dog.png"),
            item(6, "https://example.com/never-asked.png"),
        ]
        with checking_inputs(rules=RULES, source=None) as inputs:
            checked = list(inputs.checked(rows))
        assert [row.line for row in checked] == [2, 3, 4, 5, 6]
        assert [isinstance(row, BadRow) for row in checked] == [False, False, True, True, False]
        assert (checked[3].id, "'dog.png' does not exist" in checked[3].reason) == ("row 5", True)

    def test_many_are_asked_at_once(self, s3_location, moto_client, on_head):
        moto_client.put_object(Bucket=s3_location.bucket, Key="0.png", Body=b"a cat")
        together = threading.Barrier(8, timeout=60)  # broken, were they asked one by one

        def wait(**_):
            together.wait()

        on_head(wait)
        rows = [item(line, f"s3://{s3_location.bucket}/{line}.png") for line in range(8)]
        with checking_inputs(rules=RULES, source=s3_location) as inputs:
            checked = list(inputs.checked(rows))
        assert [isinstance(row, BadRow) for row in checked] == [False, *[True] * 7]

    def test_one_of_many_rows_is_asked_once(self, s3_location, moto_client, on_head):
        moto_client.put_object(Bucket=s3_location.bucket, Key="a.png", Body=b"a cat")
        asked = []
        on_head(lambda request, **_: asked.append(request.url))
        with checking_inputs(rules=RULES, source=s3_location) as inputs:
            list(inputs.checked(item(line, f"s3://{s3_location.bucket}/a.png") for line in range(50)))
        assert len(asked) == 1

    def test_no_more_than_512_rows_are_taken_ahead(self):
        class Pool:
            """Answers nothing before it was asked 513 times."""

            def __init__(self):
                self.looks = []

            def submit(self, *_, **__):
                self.looks.append(Future())
                if len(self.looks) >= 513:
                    self.looks[0].set_result("")
                return self.looks[-1]

        taken = count()
        rows = (item(next(taken), f"{line}.png") for line in range(10_000))
        first = next(InputChecker(Pool(), RULES, None).checked(rows))
        assert (first.line, next(taken)) == (0, 513)

    def test_of_very_many_the_oldest_are_forgotten(self, monkeypatch, folder):
        monkeypatch.setattr("n1n_prefect.batch.inputs._REMEMBERED", 2)
        with checking_inputs(rules=RULES, source=None) as inputs:
            list(inputs.checked(item(line, f"{line}.png") for line in range(10)))
            assert list(inputs._looks) == ["8.png", "9.png"]

    def test_a_store_that_is_busy_ends_it(self, scripted_store):
        scripted_store.says(*[Answer(503, "SlowDown")] * 50)
        with (
            checking_inputs(rules=RULES, source=scripted_store.server.location("shop")) as inputs,
            pytest.raises(SourceError, match="busy"),
        ):
            list(inputs.checked([item(2, "s3://shop/a.png")]))
