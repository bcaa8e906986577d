import copy
import json
import pickle
from typing import Any
from uuid import uuid4

import cloudpickle
import pytest
from prefect.blocks.core import Block
from prefect.utilities.collections import visit_collection
from pydantic import SecretStr

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import InvalidRequestError

KEY = "sk-0123456789abcdef"
SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.fixture(params=["credentials", "location"])
def block(request: pytest.FixtureRequest) -> Block:
    if request.param == "credentials":
        return N1nCredentials(api_key=KEY, prices={"m": {"input": 1, "text": 2, "image": 3}})
    return S3Location(bucket="shop", aws_access_key_id="AKIA1", aws_secret_access_key=SECRET, tags={"team": "pim"})


class TestAsPrefectHandlesBlocks:
    """A block that cannot be iterated still goes wherever Prefect takes it."""

    def test_iterating_names_unmapped(self, block: Block):
        with pytest.raises(InvalidRequestError, match=r"unmapped\(credentials\)"):
            iter(block)
        with pytest.raises(InvalidRequestError, match=f"{type(block).__name__} is one value"):
            list(block)

    def test_dict_is_the_fields(self, block: Block):
        fields = type(block).model_fields
        assert dict(block) == {name: getattr(block, name) for name in fields}
        assert list(block.keys()) == list(fields)
        with pytest.raises(KeyError):
            block["no_such_field"]

    def test_dump_and_back(self, block: Block):
        dumped = block.model_dump(context={"include_secrets": True})
        again = type(block).model_validate(dict(dumped))
        assert again.model_dump(context={"include_secrets": True}) == dumped

    def test_dispatch_by_slug(self, block: Block):
        dumped = {**block.model_dump(context={"include_secrets": True}), "block_type_slug": block.get_block_type_slug()}
        assert type(block)(**dumped).model_dump() == block.model_dump()

    def test_document_and_back(self, block: Block):
        ids = {"block_schema_id": "00000000-0000-0000-0000-000000000001"}
        ids["block_type_id"] = "00000000-0000-0000-0000-000000000002"
        document = block._to_block_document(name="x", include_secrets=True, **ids)
        data = json.loads(json.dumps(document.data, default=str))
        assert type(block).model_validate(data) == block

    @pytest.mark.parametrize("through", [pickle, cloudpickle])
    def test_pickles_even_after_use(self, block: Block, through: Any):
        block.get_client()
        assert through.loads(through.dumps(block)) == block

    def test_copies(self, block: Block):
        assert copy.deepcopy(block) == block == block.model_copy()

    def test_visit_collection_walks_in(self, block: Block):
        seen: list[Any] = []
        visit_collection({"a": [block]}, seen.append)
        assert any(isinstance(value, SecretStr) for value in seen)

    def test_visit_collection_may_replace_what_it_finds(self, block: Block):
        def shout(value: Any) -> Any:
            return value.upper() if isinstance(value, str) else value

        replaced = visit_collection(block, shout, return_data=True)
        assert type(replaced) is type(block)
        assert replaced != block

    def test_no_secret_shows(self, block: Block):
        for shown in (repr(block), str(block), str(block.model_dump()), block.model_dump_json()):
            assert KEY not in shown
            assert SECRET not in shown

    def test_misspelt_field(self, block: Block):
        with pytest.raises(InvalidRequestError, match=r"no field '(\w+)'; did you mean '\w+'") as caught:
            type(block)(**{**dict(block), "base_ulr" if isinstance(block, N1nCredentials) else "buket": "x"})
        assert KEY not in str(caught.value)

    def test_unrelated_field_lists_the_known_ones(self, block: Block):
        with pytest.raises(InvalidRequestError, match=r"there are (api_key|bucket), "):
            type(block)(**{**dict(block), "zzz": "x"})

    def test_a_field_may_be_assigned(self, block: Block):
        name, value = ("account", "other") if isinstance(block, N1nCredentials) else ("prefix", "/a//b/")
        setattr(block, name, value)
        assert getattr(block, name) in ("other", "a/b")
        assert name in block.model_fields_set
        assert type(block).model_validate(dict(block)) == block

    def test_a_secret_that_is_assigned_stays_one(self, block: Block):
        name = "api_key" if isinstance(block, N1nCredentials) else "aws_secret_access_key"
        setattr(block, name, "another-secret-of-mine")
        assert getattr(block, name) == SecretStr("another-secret-of-mine")
        assert "another-secret" not in repr(block) + str(block.model_dump())

    def test_a_misspelt_assignment(self, block: Block):
        name = "api_kye" if isinstance(block, N1nCredentials) else "buckt"
        with pytest.raises(InvalidRequestError, match=f"no field '{name}'; did you mean"):
            setattr(block, name, "sk-0123456789")
        assert not hasattr(block, name)

    def test_prefects_own_marks_are_assigned_and_copied(self, block: Block):
        mark = uuid4()
        block._block_document_id, block._block_document_name, block._is_anonymous = mark, "shop", False
        for other in (block, copy.deepcopy(block), block.model_copy(), pickle.loads(pickle.dumps(block))):
            assert (other._block_document_id, other._block_document_name) == (mark, "shop")


class TestAssignment:
    """A value that would be refused at the start is refused later, and nothing changes."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("base_url", "http://evil.example"),
            ("base_url", None),
            ("api_key", ""),
            ("api_key", "********"),
            ("api_key", "sk-012 34567890"),
            ("max_in_flight", 0),
            ("timeout_seconds", float("inf")),
            ("timeout_seconds", 1e300),
            ("prices", {"m": 3}),
        ],
    )
    def test_unusable_value(self, name: str, value: Any):
        block = N1nCredentials(api_key=KEY)
        before = copy.deepcopy(block)
        with pytest.raises(InvalidRequestError, match=f"N1nCredentials: {name}") as caught:
            setattr(block, name, value)
        assert block == before
        assert "34567890" not in str(caught.value)

    def test_a_block_of_ones_own_may_assign_when_it_is_made(self):
        class Ours(N1nCredentials):
            _block_type_slug = "n1n-credentials-of-ours"

            def block_initialization(self) -> None:
                self.account = "ours"

        assert Ours(api_key=KEY).account == "ours"

    def test_fields_that_no_longer_fit_together(self):
        block = S3Location(bucket="shop", aws_access_key_id="AKIA1", aws_secret_access_key=SECRET)
        with pytest.raises(InvalidRequestError, match="go together"):
            block.aws_secret_access_key = ""
        assert block.aws_secret_access_key.get_secret_value() == SECRET


class TestMessages:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"max_in_flight": 0}, "max_in_flight: .*, got 0$"),
            ({"max_in_flight": "many"}, "max_in_flight: .*, got 'many'"),
            ({"price_factor": float("nan")}, "price_factor: .*, got nan"),
            ({"base_url": 5}, "base_url: .*, got 5"),
            ({"prices": {"m": 3}}, r"prices\.m: .*, got 3"),
            ({"max_in_flight": 0, "account": ""}, "account: .*, got ''; max_in_flight: .*, got 0"),
        ],
    )
    def test_the_offending_value_is_shown(self, fields: dict[str, Any], said: str):
        with pytest.raises(InvalidRequestError, match=said):
            N1nCredentials(api_key=KEY, **fields)

    def test_a_long_one_is_cut(self):
        with pytest.raises(InvalidRequestError, match=r"x…$") as caught:
            N1nCredentials(api_key=KEY, max_in_flight="x" * 100_000)
        assert len(caught.value.message.partition("got ")[2]) == 80

    @pytest.mark.parametrize("fields", [{"api_key": [KEY, SECRET]}, {"api_key": KEY, "max_in_flight": f"\n{KEY}"}, {}])
    def test_secrets_are_not(self, fields: dict[str, Any]):
        with pytest.raises(InvalidRequestError) as caught:
            N1nCredentials(**fields)
        assert KEY not in str(caught.value)
        assert SECRET not in str(caught.value)

    def test_nor_those_of_a_location(self):
        with pytest.raises(InvalidRequestError, match="aws_session_token: ") as caught:
            S3Location(bucket="shop", aws_session_token=[SECRET])
        assert SECRET not in str(caught.value)
