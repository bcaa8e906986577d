"""Ten thousand images in one go: a manifest of prompts in, images in S3 and a table of what happened out.

`batch_to_s3` is the flow; deploy it from a plain install by its entrypoint `n1n_prefect.batch.batch_to_s3`.
"""

from n1n_prefect.batch.chunk import ChunkReport, carry_out_chunk
from n1n_prefect.batch.flow import batch_chunk, batch_to_s3
from n1n_prefect.batch.report import BatchReport
from n1n_prefect.batch.terms import Terms

__all__ = ["BatchReport", "ChunkReport", "Terms", "batch_chunk", "batch_to_s3", "carry_out_chunk"]
