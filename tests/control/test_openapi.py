"""The OpenAPI document: it names every route, is valid, and the API does what it says."""

import re
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.control.fake_hub import FakeHub, HeldClock
from tulle.control.app import make_app
from tulle.control.openapi import document
from tulle.control.plane import open_plane
from tulle.control.settings import Limits, ServerSettings


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The API on a real store, with streams that end at once."""
    limits = replace(Limits(), watch_s_max=0.02, tap_s_max=0.02, resolve_timeout_s=0.02)
    data_dir = tmp_path_factory.mktemp("data") / "d"
    plane = open_plane(ServerSettings(data_dir, limits=limits), FakeHub(), HeldClock().clock)
    yield make_app(plane, None)
    plane.close()


EXAMPLES = r"^/(tulle|livez|readyz|version|api/v1/namespaces(/{name}.*)?$)"
"""One kind stands for all: the handlers are the same, and making examples of routes is slow."""

schema = schemathesis.openapi.from_dict(document()).include(path_regex=EXAMPLES)
schema.config.phases.update(phases=["fuzzing"])


@schema.parametrize()
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_the_api_answers_as_its_document_says(case, app):
    case.call_and_validate(
        app=app,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            unsupported_method,
        ],
    )


def test_the_document_names_exactly_the_routes(app):
    routed = {
        (route.path, method.lower())
        for route in app.routes
        for method in route.methods
        if method != "HEAD"
    }
    named = {
        (path, method) for path, operations in document()["paths"].items() for method in operations
    }

    assert named == routed


def test_every_path_parameter_is_described(app):
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            described = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert described == set(re.findall(r"{(\w+)}", path)), (path, method)


def test_every_reference_leads_somewhere():
    whole = document()
    references = set(re.findall(r"#/components/schemas/([\w.-]+)", str(whole)))

    assert references <= set(whole["components"]["schemas"])
