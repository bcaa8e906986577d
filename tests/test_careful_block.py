import copy
import json
import pickle
from typing import Any

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
