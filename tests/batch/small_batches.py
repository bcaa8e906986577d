"""Batches of a few rows against the local gateway and a real S3 server, a chunk at a time and without a flow."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.batch.chunk import ChunkReport, carry_out_chunk
from n1n_prefect.batch.parts import read_part
from n1n_prefect.batch.plan import Plan, make_plan
from n1n_prefect.batch.results import COLUMNS, ItemResult
from n1n_prefect.batch.terms import Terms
from n1n_prefect.batch.work import Places
from n1n_prefect.sources import SourceRules


@dataclass
class Batch:
    """A batch whose manifest is in a folder and whose images go to a bucket."""

    folder: Path
    credentials: N1nCredentials
    destination: S3Location
    terms: Terms

    @property
    def places(self) -> Places:
        return Places.of(self.terms, credentials=self.credentials, destination=self.destination, source=None)

    def plan(self, *rows: Mapping[str, Any] | str, chunk_size: int = 100, **options: Any) -> Plan:
        """Writes the rows as JSON Lines, a text as a row of its own prompt with it as id, and plans them."""
        import orjson

        whole = [{"id": row, "prompt": f"Draw {row}"} if isinstance(row, str) else row for row in rows]
        manifest = self.folder / f"{self.terms.batch_id}.jsonl"
        manifest.write_bytes(b"\n".join(map(orjson.dumps, whole)))
        return make_plan(
            manifest,
            batch_id=self.terms.batch_id,
            store=self.places.store,
            destination=self.places.destination,
            rules=SourceRules(roots=(self.folder,)),
            variants=self.terms.variants,
            sidecars=self.terms.sidecars,
            reserved=COLUMNS,
            credentials=self.credentials,
            chunk_size=chunk_size,
            **options,
        )

    def carry_out(self, number: int = 0, **options: Any) -> ChunkReport:
        """Carries out a chunk in this thread."""
        given = {"credentials": self.credentials, "destination": self.destination, **options}
        return carry_out_chunk.fn(number, "", terms=self.terms, **given)

    def results(self, number: int = 0) -> dict[str, ItemResult]:
        """A chunk's results by id, as its part has them."""
        return {result.id: result for result in read_part(self.places.store, number) or ()}

    def statuses(self, number: int = 0) -> dict[str, str]:
        return {name: result.outcome.status for name, result in self.results(number).items()}

    def objects(self) -> dict[str, bytes]:
        """The objects in the batch's folder that are no documents of its own, by key below it."""
        client, prefix = self.destination.get_client(), f"{self.places.destination.prefix}/"
        found = client.list_objects_v2(Bucket=self.destination.bucket, Prefix=prefix).get("Contents", ())
        keys = [item["Key"].removeprefix(prefix) for item in found]
        return {
            key: client.get_object(Bucket=self.destination.bucket, Key=prefix + key)["Body"].read()
            for key in keys
            if not key.startswith("_batch/") and key != "bad_rows.jsonl"
        }


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
