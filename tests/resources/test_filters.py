"""Filters: what they write into a message must not end it, nor frame it anew."""

from collections.abc import Callable

import pytest

Refusals = Callable[[str], list[str]]

PATH = "letters, digits, %XX and -._~!$&'()*+,;=:@/"
VALUE = "is not allowed; visible characters, between them spaces and tabs (RFC 9110)"


def _refused(type_: str, body: str, refusals: Refusals) -> list[str]:
    """Return what is wrong with a filter, by the place below the field that is named by its type."""
    field = {"URLRewrite": "urlRewrite"}.get(type_, type_[0].lower() + type_[1:])
    filters = f"filters: [{{type: {type_}, {field}: {body}}}]"
    text = (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, "
        f"spec: {{rules: [{{{filters}}}]}}}}"
    )
    return [found.removeprefix(f"spec.rules[0].filters[0].{field}.") for found in refusals(text)]


@pytest.mark.parametrize("type_", ["URLRewrite", "RequestRedirect"])
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/a?b", f'"/a?b" is not a path; {PATH}'),
        ("/a#b", f'"/a#b" is not a path; {PATH}'),
        ("/a b", f'"/a b" is not a path; {PATH}'),
        (r"/a\r\nx: 1", f'"/a\r\nx: 1" is not a path; {PATH}'),
        (r"/a\x7f", f'"/a\x7f" is not a path; {PATH}'),
        (r"/a\t", f'"/a\t" is not a path; {PATH}'),
        ("/é", f'"/é" is not a path; {PATH}'),
        ("/<a>", f'"/<a>" is not a path; {PATH}'),
        ("/%zz", f'"/%zz" is not a path; {PATH}'),
        ("a", '"a" is not absolute; empty, or a path that starts with /'),
        ("/a/../b", '"/a/../b" has a segment that names another; no . and .. between slashes'),
        ("/.", '"/." has a segment that names another; no . and .. between slashes'),
    ],
)
def test_a_path_that_would_not_stay_one(
    type_: str, path: str, what: str, refusals: Refusals
) -> None:
    body = f'{{path: {{type: ReplaceFullPath, replaceFullPath: "{path}"}}}}'

    assert _refused(type_, body, refusals) == [f"path.replaceFullPath: {what}"]


@pytest.mark.parametrize("path", ["", "/", "/a/b%20c;d=e", "/.well-known/a..b"])
def test_a_path_that_stays_one(path: str, refusals: Refusals) -> None:
    body = f'{{path: {{type: ReplaceFullPath, replaceFullPath: "{path}"}}}}'

    assert _refused("URLRewrite", body, refusals) == []


@pytest.mark.parametrize("type_", ["RequestHeaderModifier", "ResponseHeaderModifier"])
@pytest.mark.parametrize(
    ("body", "what"),
    [
        (r'{set: [{name: x, value: "b\r\nc: d"}]}', f'set[0].value: "b\r\nc: d" {VALUE}'),
        (r'{set: [{name: x, value: "b\x00"}]}', f'set[0].value: "b\x00" {VALUE}'),
        ('{add: [{name: x, value: " b"}]}', f'add[0].value: " b" {VALUE}'),
        (r'{add: [{name: x, value: "b\t"}]}', f'add[0].value: "b\t" {VALUE}'),
        (
            "{set: [{name: Content-Length, value: '5'}]}",
            'set[0].name: "Content-Length" is the sidecar\'s own; another header',
        ),
        (
            "{remove: [x-a, X-Tulle-Reason]}",
            'remove[1]: "X-Tulle-Reason" is the sidecar\'s own; another header',
        ),
        (
            "{add: [{name: Host, value: b}]}",
            'add[0].name: "Host" stands in a request once; set it',
        ),
        *(
            (
                f"{{set: [{{name: host, value: '{host}'}}]}}",
                f'set[0].value: "{host}" is not a host; a name or address, and a port',
            )
            for host in ("ca rt", "cart/x", "user@cart", "a:80:90", "[::1", "[cart]", "")
        ),
        ("{remove: [host]}", 'remove[0]: "host" stands in a request once; set it'),
    ],
)
def test_a_header_that_would_be_more(type_: str, body: str, what: str, refusals: Refusals) -> None:
    assert _refused(type_, body, refusals) == [what]


def test_a_header_that_is_one(refusals: Refusals) -> None:
    body = '{set: [{name: Host, value: cart}, {name: x, value: "é, b\tc"}], add: [{name: y, value: ""}]}'

    assert _refused("RequestHeaderModifier", body, refusals) == []
    for host in ("cart.example:80", "127.0.0.1", "[::1]:80"):
        body = f"{{set: [{{name: Host, value: '{host}'}}]}}"
        assert _refused("RequestHeaderModifier", body, refusals) == []
