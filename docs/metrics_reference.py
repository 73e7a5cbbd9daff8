# ruff: noqa: INP001  # a script beside the pages, not a package
"""The reference page of metrics and reasons, read from the engine's source.

`python docs/metrics_reference.py` writes `docs/reference/metrics.md`. The engine's tables are
the only place where names and meanings are kept; what is added here is what labels mean.
"""

import re
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
ENGINE: Final = ROOT / "engine/core/src"
PAGE: Final = ROOT / "docs/reference/metrics.md"

LABELS: Final = {
    "direction": "`outbound`: from the application. `inbound`: to it.",
    "source": "The caller: `namespace/workload` when outbound; when inbound what its certificate "
    "says, `namespace/service-account`; empty without mutual TLS.",
    "source_identity": "The caller's SPIFFE id; empty without mutual TLS.",
    "service": "The service called, `namespace/name`; `outside` for what is not of the mesh; empty when inbound.",
    "destination": "The workload that answered, or was tried last; empty when none was reached.",
    "destination_identity": "Its SPIFFE id.",
    "route": "`namespace/route/rule` of the rule in force; a rule without a name has its number, "
    "from 0. Empty without a route, and when inbound.",
    "protocol": "What the port speaks: `http`, `http2`, `grpc` or `tcp`.",
    "code": "HTTP status; `0` for TCP, and when the caller left before an answer. Where the mesh "
    "itself refuses a gRPC call, the sidecar that does counts the HTTP status below, the other one "
    "200.",
    "grpc_status": "The status of a gRPC call, `0` to `16`; empty where none was sent.",
    "reason": "Why the mesh answered in place of the application, [see below](#reasons); else "
    "empty.",
    "mtls": "`true` when the other side was reached, or came, by mutual TLS.",
}
"""Meaning of each label, in the order of `prometheus.rs`."""

_HEAD: Final = """\
# Metrics

Every sidecar serves these on `/metrics` of its admin address, in the Prometheus text format; the
address is in `tulle proxy list -o json` and in the sidecar's `sidecar.json`. Counters begin at
zero when the sidecar starts. What they are good for: [telemetry](../concepts/telemetry.md). This
page is read from the engine's source: `python docs/metrics_reference.py`.
"""


class Reason(NamedTuple):
    """One row of `error.rs`, with what `respond.rs` makes of it."""

    name: str
    meaning: str
    source: str
    retry: str
    status: str
    grpc: str


def metrics() -> list[tuple[str, str, str]]:
    """Return name, type and meaning of every metric, in the table's order."""
    source = (ENGINE / "observe/metrics.rs").read_text(encoding="utf-8")
    table = source.partition("pub const TABLE")[2].partition("];")[0]
    rows = re.findall(r'\(\s*"(\w+)",\s*"(\w+)",\s*"((?:[^"\\]|\\.)*)",\s*\)', table)
    return [(name, kind, help_.replace('\\"', '"')) for name, kind, help_ in rows]


def series_max() -> int:
    """Return how many series a sidecar keeps."""
    source = (ENGINE / "observe/metrics.rs").read_text(encoding="utf-8")
    (found,) = re.findall(r"SERIES_MAX: usize = ([\d_]+);", source)
    return int(found)


def labels() -> list[str]:
    """Return the labels that every series of requests and connections has."""
    source = (ENGINE / "observe/prometheus.rs").read_text(encoding="utf-8")
    function = source.partition("fn labels")[2].partition("\n    }\n")[0]
    return re.findall(r'(\w+)=\\"', function)


def reasons() -> list[Reason]:
    """Return every reason, in the order of its declaration."""
    source = (ENGINE / "error.rs").read_text(encoding="utf-8")
    table = source.partition("\nreasons! {")[2].partition("\n}")[0]
    rows = re.findall(r'/// (.+)\n\s*(\w+) = "([\w-]+)", (\w+), (\w+);', table)
    respond = (ENGINE / "respond.rs").read_text(encoding="utf-8")
    statuses = _arms(respond, "pub fn status", r"StatusCode::(\w+)")
    grpc = _arms(respond, "pub fn grpc_status", r"(\d+)")
    return [
        Reason(text, meaning, source, retry, statuses[name], grpc[name])
        for meaning, name, text, source, retry in rows
    ]


def _arms(source: str, function: str, result: str) -> dict[str, str]:
    """Return what the match in *function* gives for each reason."""
    body = source.partition(function)[2].partition("\n}")[0]
    arms = re.findall(rf"((?:\|?\s*Reason::\w+\s*)+)=>\s*{result}", body)
    return {
        name: value for patterns, value in arms for name in re.findall(r"Reason::(\w+)", patterns)
    }


RENAMED = {"URI_TOO_LONG": "REQUEST_URI_TOO_LONG"}
"""Statuses that Python knows by an older name than RFC 9110."""


def page() -> str:
    """Return the whole page.

    Raises:
        LookupError: the engine has other labels than this script explains.
    """
    if labels() != list(LABELS):
        raise LookupError(f"labels are {labels()}, but {list(LABELS)} are explained")
    return "\n".join(
        [
            _HEAD,
            "| metric | type | meaning |",
            "|---|---|---|",
            *(f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in metrics()),
            "",
            "Of a histogram there are `_bucket`, `_sum` and `_count`. Its 27 bounds double, from",
            "4 µs to 268 s.",
            "",
            "## Labels",
            "",
            "Metrics of requests, responses and TCP connections have all of these; the others have none.",
            "",
            "| label | meaning |",
            "|---|---|",
            *(f"| `{name}` | {meaning} |" for name, meaning in LABELS.items()),
            "",
            f"A sidecar keeps at most {series_max()} series; requests of further ones are counted with",
            "`other` as service and peer, and in `tulle_dropped_series_total`.",
            "",
            "## Reasons",
            "",
            "What the mesh itself answers, in the label, in the access log and in the response",
            "header `x-tulle-reason`. *Again*: whether a retry may send the request again `always`,",
            "for `idempotent` methods, or `never`; whether it does is up to the service's policy.",
            "",
            "| reason | meaning | HTTP | gRPC | whose fault | again |",
            "|---|---|---:|---:|---|---|",
            *(_row(reason) for reason in reasons()),
            "",
        ]
    )


def _row(reason: Reason) -> str:
    cells = [
        f"`{reason.name}`",
        reason.meaning,
        str(HTTPStatus[RENAMED.get(reason.status, reason.status)].value),
        reason.grpc,
        reason.source.lower(),
        reason.retry.lower(),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
