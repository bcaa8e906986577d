"""A local n1n gateway for tests, demonstrations and benchmarks: real images, a bill, and faults on demand."""

from n1n_prefect.testing.fault_kind import Fault
from n1n_prefect.testing.fault_matrix import run_fault_matrix
from n1n_prefect.testing.fault_rows import FaultMatrix, FaultRow
from n1n_prefect.testing.faults import FAULTS, Faults
from n1n_prefect.testing.gateway import LocalGateway
from n1n_prefect.testing.ledger import Call, Ledger

__all__ = [
    "FAULTS",
    "Call",
    "Fault",
    "FaultMatrix",
    "FaultRow",
    "Faults",
    "Ledger",
    "LocalGateway",
    "run_fault_matrix",
]
