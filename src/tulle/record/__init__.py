"""Records: what any sidecar needs to know about one thing, the same bytes for every reader.

One module per kind of record (`service` with `traffic`, `endpoints`, `workload`,
`trust`); `codec` makes their bytes, `name` the names they are published under.
This package imports nothing of tulle.
"""

from tulle.record.codec import RecordFormatError, decode, encode, version
from tulle.record.endpoints import EndpointsRecord
from tulle.record.name import Record, record_name
from tulle.record.service import ServiceRecord
from tulle.record.trust import TrustRecord
from tulle.record.workload import WorkloadRecord

__all__ = [
    "EndpointsRecord",
    "Record",
    "RecordFormatError",
    "ServiceRecord",
    "TrustRecord",
    "WorkloadRecord",
    "decode",
    "encode",
    "record_name",
    "version",
]
