"""The name under which a record is published and subscribed to.

"service/shop/cart", "endpoints/shop/cart", "workload/shop/cart-1", "trust/tulle.local".
"""

from typing import TypeAlias

from tulle.record.endpoints import EndpointsRecord
from tulle.record.service import ServiceRecord
from tulle.record.trust import TrustRecord
from tulle.record.workload import WorkloadRecord

Record: TypeAlias = ServiceRecord | EndpointsRecord | WorkloadRecord | TrustRecord


def record_name(record: Record) -> str:
    """Return the name that *record* is published under."""
    if isinstance(record, TrustRecord):
        return f"trust/{record.domain}"
    return f"{record.kind}/{record.namespace}/{record.name}"
