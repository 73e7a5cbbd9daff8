"""HTTPRoute: the rules of the Gateway API's definitions, which nobody else enforces here."""

from collections.abc import Callable

import pytest

Refusals = Callable[[str], list[str]]

BACKEND = "backendRefs: [{name: cart, port: 80}]"


def _route(spec: str) -> str:
    head = "apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}"
    return f"{{{head}, spec: {spec}}}"


def _rule(rule: str) -> str:
    return _route(f"{{rules: [{{{rule}}}]}}")


def _refused(where: str, what: str) -> list[str]:
    return [f"spec.rules[0].{where}: {what}"]


def test_a_route_with_everything_is_accepted(refusals: Refusals) -> None:
    text = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs:
  - {group: "", kind: Service, name: cart, port: 80}
  - {group: "", kind: Service, name: cart, port: 8080}
  hostnames: [cart.example.com, "*.example.com"]
  rules:
  - name: canary
    matches:
    - path: {type: PathPrefix, value: /api}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: X-Set, value: a}]
        add: [{name: X-Add, value: b}]
        remove: [X-Gone]
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: X-Set, value: a}]}
    - type: URLRewrite
      urlRewrite: {hostname: one.example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    backendRefs:
    - {group: tulle.dev, kind: ServiceVersion, name: cart.v1, port: 80, weight: 90}
    - name: cart-v2
      port: 80
      weight: 10
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {set: [{name: X-Version, value: v2}]}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [500, 503], attempts: 3, backoff: 100ms}
  - name: old
    matches:
    - path: {type: Exact, value: /old}
      method: GET
    - path: {type: RegularExpression, value: "/o[lL]d/.*"}
      headers: [{name: version, value: one}, {type: RegularExpression, name: x, value: "a|b"}]
      queryParams: [{name: animal, value: whale}]
    filters:
    - type: RequestRedirect
      requestRedirect:
        {scheme: https, hostname: example.org, port: 8443, statusCode: 308,
         path: {type: ReplaceFullPath, replaceFullPath: /new}}
"""
    assert refusals(text) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param("{}", [], id="the least"),
        pytest.param("{rules: []}", ["spec.rules: 0 are too few; at least 1"], id="no rules"),
        pytest.param(
            "{parentRefs: [{kind: Service, name: cart}, {kind: Svc, name: Cart}]}",
            [
                'spec.parentRefs[1].kind: "Svc" is not known; one of Service, Gateway (did you mean "Service"?)',
                (
                    'spec.parentRefs[1].name: "Cart" is not allowed; lower-case letters, digits, '
                    "'-' and '.', starting and ending with a letter or digit"
                ),
            ],
            id="parents wrong by themselves",
        ),
        pytest.param(
            "{parentRefs: [{kind: Service, name: cart}, {group: '', kind: Gateway, name: gate}]}",
            [
                (
                    'spec.parentRefs[0].group: "gateway.networking.k8s.io" has no Service; '
                    'group: "" for Service'
                ),
                (
                    'spec.parentRefs[1].group: "" has no Gateway; '
                    'group: "gateway.networking.k8s.io" for Gateway'
                ),
            ],
            id="groups of parents",
        ),
        pytest.param(
            "{parentRefs: [{group: '', kind: Service, name: cart}, "
            "{group: '', kind: Service, name: cart, port: 80}]}",
            [
                (
                    'spec.parentRefs[1]: "cart" is a parent twice; several ports of one Service, '
                    "each given by its own port or sectionName"
                )
            ],
            id="a Service and one of its ports",
        ),
        pytest.param(
            "{hostnames: [example.com, 'example.com:80', '*', a.*.b]}",
            [
                f'spec.hostnames[{index}]: "{name}" is not allowed; '
                "a host name, or *. followed by one; no port, no IP address"
                for index, name in ((1, "example.com:80"), (2, "*"), (3, "a.*.b"))
            ],
            id="hostnames",
        ),
        pytest.param(
            "{rules: [{name: a}, {name: b}, {name: a}]}",
            ['spec.rules[2].name: "a" is used twice; each name once'],
            id="names of rules",
        ),
        pytest.param(
            "{rules: [{matches: {}, backendrefs: [], retries: 3}]}",
            [
                "spec.rules[0].matches: a mapping is not allowed; a list",
                'spec.rules[0].backendrefs: unknown key; did you mean "backendRefs"?',
                'spec.rules[0].retries: unknown key; did you mean "retry"?',
            ],
            id="unknown keys",
        ),
        pytest.param(
            "{rule: []}", ['spec.rule: unknown key; did you mean "rules"?'], id="rule for rules"
        ),
    ],
)
def test_a_wrong_spec(spec: str, expected: list[str], refusals: Refusals) -> None:
    assert refusals(_route(spec)) == expected


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("{value: api}", '"api" is not absolute; a path that starts with /'),
        ("{value: ''}", '"" is not absolute; a path that starts with /'),
        ("{value: /a//b}", '"/a//b" holds "//"; a normalised path'),
        ("{value: /a/./b}", '"/a/./b" holds "/./"; a normalised path'),
        ("{value: /a/../b}", '"/a/../b" holds "/../"; a normalised path'),
        ("{value: /a%2Fb}", '"/a%2Fb" holds "%2F"; a normalised path'),
        ("{value: '/a#b'}", '"/a#b" holds "#"; a normalised path'),
        (
            "{value: /a/..}",
            (
                '"/a/.." is not a path; letters, digits, /._~!$&\'()*+,;=:@- and %HH, '
                "not ending in /. or /.."
            ),
        ),
        (
            "{type: Exact, value: '/a b'}",
            (
                '"/a b" is not a path; letters, digits, /._~!$&\'()*+,;=:@- and %HH, '
                "not ending in /. or /.."
            ),
        ),
        (f"{{value: /{'a' * 1024}}}", "is too long; at most 1024 characters"),
        (
            "{type: RegularExpression, value: '(?<=a)b'}",
            '"(?<=a)b" has look-around; RE2 syntax, at most 1024 bytes',
        ),
        (
            r"{type: RegularExpression, value: '(a)\1'}",
            r'"(a)\1" has a back-reference; RE2 syntax, at most 1024 bytes',
        ),
        (
            "{type: RegularExpression, value: 'a++'}",
            '"a++" has a possessive quantifier; RE2 syntax, at most 1024 bytes',
        ),
        (
            "{type: RegularExpression, value: '(?>a)b'}",
            '"(?>a)b" has an atomic group; RE2 syntax, at most 1024 bytes',
        ),
        (
            "{type: RegularExpression, value: '['}",
            (
                '"[" is not a regular expression: unterminated character set at position 0; '
                "RE2 syntax, at most 1024 bytes"
            ),
        ),
        (
            f"{{type: RegularExpression, value: {'a' * 1025}}}",
            "1025 bytes are too many; RE2 syntax, at most 1024 bytes",
        ),
    ],
)
def test_a_wrong_path(path: str, what: str, refusals: Refusals) -> None:
    text = _rule(f"matches: [{{path: {path}}}], {BACKEND}")

    assert refusals(text) == _refused("matches[0].path.value", what)


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/%41", "/a.b/~c", f"/{'a' * 1023}"])
def test_a_right_path(path: str, refusals: Refusals) -> None:
    assert refusals(_rule(f"matches: [{{path: {{value: '{path}'}}}}], {BACKEND}")) == []


@pytest.mark.parametrize(
    ("rule", "where", "what"),
    [
        pytest.param(
            "matches: [{method: get}]",
            "matches[0].method",
            '"get" is not known; one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, '
            'PATCH (did you mean "GET"?)',
            id="a method in lower case",
        ),
        pytest.param(
            "matches: [{headers: [{name: 'a b', value: c}]}]",
            "matches[0].headers[0].name",
            '"a b" is not allowed; letters, digits and !#$%&\'*+-.^_`|~ (RFC 9110)',
            id="a header with a space",
        ),
        pytest.param(
            "matches: [{headers: [{name: ':path', value: c}]}]",
            "matches[0].headers[0].name",
            '":path" is not allowed; letters, digits and !#$%&\'*+-.^_`|~ (RFC 9110)',
            id="a pseudo-header",
        ),
        pytest.param(
            'matches: [{headers: [{name: a, value: "b\\nc"}]}]',
            "matches[0].headers[0].value",
            '"b\nc" is not allowed; visible characters, spaces and tabs (RFC 9110)',
            id="a value of two lines",
        ),
        pytest.param(
            "matches: [{queryParams: [{name: a, value: ''}]}]",
            "matches[0].queryParams[0].value",
            "0 characters; 1 to 1024",
            id="an empty query value",
        ),
        pytest.param(
            "timeouts: {request: 1s, backendRequest: 2s}",
            "timeouts.backendRequest",
            '"2s" is longer than request; at most "1s"',
            id="a try longer than the request",
        ),
        pytest.param(
            "timeouts: {request: 10}",
            "timeouts.request",
            "10 is a number; a string",
            id="a duration without unit",
        ),
        pytest.param(
            "timeouts: {request: 1.5s}",
            "timeouts.request",
            '"1.5s" is not a duration; one to four of <number>h, m, s or ms, as in 1m30s',
            id="a fraction",
        ),
        pytest.param(
            "timeouts: {request: 25h}",
            "timeouts.request",
            '"25h" is out of range; 0s (no limit) to 24h',
            id="more than a day",
        ),
        pytest.param(
            "retry: {attempts: 11}",
            "retry.attempts",
            "11 is out of range; 1 to 10",
            id="too many attempts",
        ),
        pytest.param(
            "retry: {codes: [200]}",
            "retry.codes[0]",
            "200 is out of range; 400 to 599",
            id="a code that is no failure",
        ),
        pytest.param(
            "filters: [{type: RequestMirror}]",
            "filters[0].type",
            '"RequestMirror" is not known; one of RequestHeaderModifier, ResponseHeaderModifier, '
            'RequestRedirect, URLRewrite (did you mean "RequestRedirect"?)',
            id="a filter that is not supported",
        ),
        pytest.param(
            "filters: [{type: URLRewrite}]",
            "filters[0].urlRewrite",
            "is required for type URLRewrite; urlRewrite: …",
            id="a filter without its body",
        ),
        pytest.param(
            "filters: [{type: URLRewrite, urlRewrite: {}, requestRedirect: {}}]",
            "filters[0].requestRedirect",
            "does not fit type URLRewrite; only with type RequestRedirect",
            id="a filter with another's body",
        ),
        pytest.param(
            "filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]",
            "filters[1].type",
            "URLRewrite is given twice; each type once",
            id="a filter twice",
        ),
        pytest.param(
            "filters: [{type: RequestRedirect, requestRedirect: {}}, "
            "{type: URLRewrite, urlRewrite: {}}]",
            "filters[1].type",
            "URLRewrite and RequestRedirect exclude each other; one of them",
            id="redirect and rewrite",
        ),
        pytest.param(
            f"filters: [{{type: RequestRedirect, requestRedirect: {{}}}}], {BACKEND}",
            "backendRefs",
            "a redirect goes to no backend; backendRefs or a redirect",
            id="redirect and backend",
        ),
        pytest.param(
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 418}}]",
            "filters[0].requestRedirect.statusCode",
            "418 is not known; one of 301, 302, 303, 307, 308",
            id="a status that is no redirect",
        ),
        pytest.param(
            "matches: [{path: {value: /a}}, {path: {value: /b}}], filters: [{type: URLRewrite, "
            "urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]",
            "filters[0].urlRewrite.path.type",
            "ReplacePrefixMatch does not say which prefix; "
            "a rule with exactly one match, on a PathPrefix",
            id="a prefix of two",
        ),
        pytest.param(
            "matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: cart, port: 80, "
            "filters: [{type: URLRewrite, urlRewrite: "
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /c}}}]}]",
            "backendRefs[0].filters[0].urlRewrite.path.type",
            "ReplacePrefixMatch does not say which prefix; "
            "a rule with exactly one match, on a PathPrefix",
            id="a prefix of an exact path",
        ),
        pytest.param(
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: "
            "{set: [{name: X-A, value: b}], remove: [x-a]}}]",
            "filters[0].requestHeaderModifier.remove[0]",
            '"x-a" is changed twice; one action per header name',
            id="a header set and removed",
        ),
        pytest.param(
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}}]",
            "filters[0].requestHeaderModifier",
            "changes nothing; set, add or remove",
            id="a modifier without changes",
        ),
        pytest.param(
            "backendRefs: [{name: cart}]", "backendRefs[0].port", "is required", id="no port"
        ),
        pytest.param(
            "backendRefs: [{name: cart, port: 80, weight: 1000001}]",
            "backendRefs[0].weight",
            "1000001 is out of range; 0 to 1000000",
            id="a weight past the bound",
        ),
        pytest.param(
            "backendRefs: [{name: cart, port: 80, weight: -1}]",
            "backendRefs[0].weight",
            "-1 is out of range; 0 to 1000000",
            id="a negative weight",
        ),
        pytest.param(
            "backendRefs: [{kind: ServiceVersion, name: cart.v1, port: 80}]",
            "backendRefs[0].group",
            '"" has no ServiceVersion; "tulle.dev" for ServiceVersion',
            id="a version of the core group",
        ),
        pytest.param(
            "backendRefs: [{group: tulle.dev, kind: ServiceVersion, name: cart, port: 80}]",
            "backendRefs[0].name",
            '"cart" has no version; <service>.<version>',
            id="a version without a version",
        ),
    ],
)
def test_a_wrong_rule(rule: str, where: str, what: str, refusals: Refusals) -> None:
    assert refusals(_rule(rule)) == _refused(where, what)


@pytest.mark.parametrize(
    ("rule", "most", "field"),
    [
        ("matches: [{}]", 64, "matches"),
        ("backendRefs: [{name: a, port: 1}]", 16, "backendRefs"),
        ("matches: [{headers: [{name: a, value: b}]}]", 16, "matches[0].headers"),
        ("matches: [{queryParams: [{name: a, value: b}]}]", 16, "matches[0].queryParams"),
    ],
)
def test_lists_have_a_bound(rule: str, most: int, field: str, refusals: Refusals) -> None:
    """One row is repeated in the innermost list up to the bound, then once more."""
    start = rule.rindex("[") + 1
    end = rule.index("]", start)

    def repeated(count: int) -> str:
        return _rule(rule[:start] + ", ".join([rule[start:end]] * count) + rule[end:])

    assert refusals(repeated(most)) == []
    assert refusals(repeated(most + 1)) == _refused(
        field, f"{most + 1} are too many; at most {most}"
    )


def test_a_route_has_at_most_128_matches(refusals: Refusals) -> None:
    def route(*counts: int) -> str:
        rules = ", ".join(f"{{matches: [{', '.join(['{}'] * count)}]}}" for count in counts)
        return _route(f"{{rules: [{rules}]}}")

    assert refusals(route(64, 64)) == []
    assert refusals(route(64, 64, 1)) == ["spec.rules: 129 matches are too many; at most 128"]
