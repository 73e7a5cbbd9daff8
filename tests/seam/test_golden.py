"""Every record the compiler writes is one the engine takes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tulle._engine import Engine
from tulle.identity.authority import CertificateAuthority

GOLDEN = Path(__file__).parents[1] / "golden"
# A case without resources (`everything`) has each field once but no meaning: Rust checks its shape.
RECORDS = sorted(
    record for case in GOLDEN.glob("*/resources.yaml") for record in case.parent.glob("*.json")
)


@pytest.mark.parametrize(
    "path", RECORDS, ids=[f"{path.parent.name}/{path.stem}" for path in RECORDS]
)
def test_the_engine_accepts_a_golden_record(new_engine: Callable[..., Engine], path: Path) -> None:
    record = json.loads(path.read_bytes())
    own: dict[str, object] = {}
    if record["kind"] == "workload":
        fields = ("namespace", "name", "service_account")
        own["workload"] = {field: record[field] for field in fields} | {"labels": {}, "zone": None}
    name = f"{record['kind']}/{record['namespace']}/{record['name']}"
    new_engine(**own).apply(name, path.read_bytes())


def test_the_engine_accepts_the_roots_of_an_authority(
    new_engine: Callable[..., Engine], authority: CertificateAuthority
) -> None:
    record = {
        "kind": "trust",
        "domain": authority.trust_domain,
        "roots_pem": list(authority.roots_pem),
    }
    new_engine().apply("trust/tulle.local", json.dumps(record).encode())
