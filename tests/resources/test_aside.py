"""What stands in for a stored object that the rules refuse: it closes and never opens."""

from typing import Any

import pytest

from tulle.errors import InvalidResources
from tulle.resources.aside import SHOWN_MAX, Aside, applied, set_aside
from tulle.resources.model import LabelSelector, Resource, ResourceKey
from tulle.resources.parse import parse_object
from tulle.resources.registry import KINDS
from tulle.resources.text import documents

PARENT = "{group: '', kind: Service, name: cart}"
BAD_FILTER = (
    "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a b'}}}"
)
TO_CART = "backendRefs: [{name: cart, port: 80}]"


def _aside(kind: str, spec: str, metadata: str = "") -> Aside:
    namespace = ", namespace: shop" if KINDS[kind].namespaced else ""
    text = (
        f"{{apiVersion: {KINDS[kind].api_versions[0]}, kind: {kind},"
        f" metadata: {{name: x{namespace}{metadata}}}, spec: {spec}}}"
    )
    (document,) = documents(text)
    value: Any = document.value
    with pytest.raises(InvalidResources) as refused:
        parse_object(value)
    key = ResourceKey(kind, "shop" if namespace else "", "x")
    found = set_aside(key, value, refused.value.violations)
    assert found is not None
    return found


def _spec(kind: str, spec: str) -> Any:
    """Return the specification of the stand-in."""
    found: Any = applied(_aside(kind, spec))
    assert found.key == ResourceKey(kind, "shop", "x")
    return found.spec


def _http(rules: str) -> list[tuple[list[str], int]]:
    """Return each rule of the stand-in: the paths it matches and how many backends it has."""
    spec = _spec("HTTPRoute", f"{{parentRefs: [{PARENT}], rules: [{rules}]}}")
    assert [ref.name for ref in spec.parent_refs] == ["cart"]
    return [
        ([match.path.value for match in rule.effective_matches], len(rule.backend_refs))
        for rule in spec.rules
    ]


def test_a_wrong_rule_refuses_what_it_matches_and_the_others_stay() -> None:
    rules = (
        f"{{matches: [{{path: {{value: /a}}}}], filters: [{BAD_FILTER}], {TO_CART}}},"
        f"{{matches: [{{path: {{value: /b}}}}], {TO_CART}}}"
    )

    assert _http(rules) == [(["/a"], 0), (["/b"], 1)]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(
            f"{{matches: [{{path: {{value: /a}}}}, {{path: {{value: b}}}}], {TO_CART}}}",
            [(["/a", "/"], 0)],
            id="a match that cannot be read is every request",
        ),
        pytest.param(f"{{matches: 1, {TO_CART}}}", [(["/"], 0)], id="no list of matches"),
        pytest.param("1", [(["/"], 0)], id="no rule at all"),
        pytest.param(
            ",".join([f"{{matches: [{{path: {{value: /a}}}}], {TO_CART}}}"] * 17),
            [(["/a"], 0)] * 17,
            id="too many rules",
        ),
    ],
)
def test_an_unclear_rule_refuses_all_it_may_have_meant(
    rules: str, expected: list[tuple[list[str], int]]
) -> None:
    assert _http(rules) == expected


def test_an_unknown_field_makes_every_rule_refuse() -> None:
    spec = _spec("HTTPRoute", f"{{parentRefs: [{PARENT}], sticky: true, rules: [{{{TO_CART}}}]}}")

    assert [rule.backend_refs for rule in spec.rules] == [()]


def test_a_route_without_rules_to_read_refuses_everything() -> None:
    for kind in ("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"):
        spec = _spec(kind, f"{{parentRefs: [{PARENT}], hostnames: [a.b, -], rules: 1}}")
        assert [rule.backend_refs for rule in spec.rules] == [()]
        if kind == "TLSRoute":
            assert spec.hostnames == ("a.b",)


def test_a_parent_that_cannot_be_read_takes_no_other_with_it() -> None:
    spec = _spec("HTTPRoute", f"{{parentRefs: [{{name: 1}}, {PARENT}], rules: [{{{TO_CART}}}]}}")

    assert [ref.name for ref in spec.parent_refs] == ["cart"]
    assert [len(rule.backend_refs) for rule in spec.rules] == [1]


FROM_WEB = "from: [{source: {serviceAccounts: [web]}}]"
TO_GET = "to: [{operation: {methods: [GET]}}]"
BAD_TO = "to: [{operation: {methods: [get]}}]"
SELECTOR = "selector: {matchLabels: {app: cart}}"


@pytest.mark.parametrize(
    ("spec", "action", "selected", "rules"),
    [
        pytest.param(
            f"{{{SELECTOR}, rules: [{{{FROM_WEB}, {BAD_TO}}}, {{{FROM_WEB}, {TO_GET}}}]}}",
            *("ALLOW", {"app": "cart"}, [(1, 1)]),
            id="a wrong rule allows nothing",
        ),
        pytest.param(
            f"{{{SELECTOR}, rules: [{{{BAD_TO}}}]}}",
            *("ALLOW", {"app": "cart"}, []),
            id="no rule is left",
        ),
        pytest.param(
            f"{{selector: {{matchLabels: {{app: -}}}}, rules: [{{{FROM_WEB}}}]}}",
            *("ALLOW", None, []),
            id="unclear whom it is about: nothing is allowed to anyone",
        ),
        pytest.param(
            f"{{targetRefs: [{{kind: Gateway, name: x}}], rules: [{{{FROM_WEB}}}]}}",
            *("ALLOW", None, []),
            id="an unknown target",
        ),
        pytest.param(
            f"{{{SELECTOR}, action: DENY, rules: [{{{FROM_WEB}, {BAD_TO}}}, {{{TO_GET}}}]}}",
            *("DENY", {"app": "cart"}, [(1, 0), (0, 1)]),
            id="a wrong rule denies whatever it may have meant",
        ),
        pytest.param(
            f"{{{SELECTOR}, action: DENY, rules: [{{{FROM_WEB}, when: []}}]}}",
            *("DENY", {"app": "cart"}, [(1, 0)]),
            id="without a condition that is not known",
        ),
        pytest.param(
            f"{{{SELECTOR}, action: DENY, rules: 1}}",
            *("DENY", {"app": "cart"}, [(0, 0)]),
            id="no rule to read denies everything",
        ),
        pytest.param(
            f"{{selector: 1, action: DENY, rules: [{{{TO_GET}}}]}}",
            *("DENY", None, [(0, 1)]),
            id="denied to the whole namespace",
        ),
        pytest.param(
            f"{{{SELECTOR}, action: AUDIT, rules: [{{{TO_GET}}}]}}",
            *("DENY", None, [(0, 0)]),
            id="an unknown action denies everything",
        ),
        pytest.param("1", *("DENY", None, [(0, 0)]), id="no specification"),
    ],
)
def test_a_policy_allows_less_and_denies_more(
    spec: str, action: str, selected: dict[str, str] | None, rules: list[tuple[int, int]]
) -> None:
    found = _spec("AuthorizationPolicy", spec)

    assert found.action == action
    assert (found.selector and found.selector.match_labels) == selected
    assert found.target_refs == ()
    assert [(len(rule.from_), len(rule.to)) for rule in found.rules] == rules


@pytest.mark.parametrize(
    ("spec", "selected"),
    [
        (f"{{{SELECTOR}, mtls: {{mode: OFF}}}}", {"app": "cart"}),
        (
            f"{{{SELECTOR}, mtls: {{mode: DISABLE}}, portLevelMtls: {{x: {{mode: STRICT}}}}}}",
            {"app": "cart"},
        ),
        ("{selector: 1, mtls: {mode: DISABLE}}", None),
    ],
)
def test_a_wrong_peer_authentication_insists_on_mutual_tls(
    spec: str, selected: dict[str, str] | None
) -> None:
    found = _spec("PeerAuthentication", spec)

    assert (found.mtls.mode, dict(found.port_level_mtls)) == ("STRICT", {})
    assert (found.selector and found.selector.match_labels) == selected


@pytest.mark.parametrize(
    ("labels", "default"),
    [
        ("{tulle.dev/default-authorization: Deny}", "deny"),
        ("{tulle.dev/default-authorization: deny, '-': a}", "deny"),
        ("{tulle.dev/default-authorization: allow, '-': a}", "allow"),
        ("{'-': a}", "allow"),
        ("[tulle.dev/default-authorization]", "deny"),
    ],
)
def test_a_namespace_whose_default_is_unclear_denies(labels: str, default: str) -> None:
    found: Any = applied(_aside("Namespace", "{}", f", labels: {labels}"))

    assert found.default_authorization == default


def test_a_service_keeps_the_ports_that_are_right() -> None:
    found: Any = applied(
        _aside("Service", "{selector: {app: cart}, ports: [{name: a, port: 80}, {port: 0}]}")
    )

    assert [port.port for port in found.spec.ports] == [80]
    assert found.selector == LabelSelector(match_labels={"app": "cart"})


def test_policies_about_a_service_that_is_unclear_are_about_everything() -> None:
    found: Any = applied(_aside("Service", "{selector: {app: -}, ports: [{port: 80}]}"))

    assert found.spec.ports == ()
    assert found.selector.selects({"app": "anything"})


def test_a_wrong_traffic_policy_leaves_the_defaults() -> None:
    spec = _spec("BackendTrafficPolicy", "{targetRefs: [{name: cart}], retry: {attempts: x}}")

    assert [target.name for target in spec.target_refs] == ["cart"]
    assert spec.retry.attempts == type(spec.retry)().attempts


def test_nothing_stands_in_for_a_workload() -> None:
    assert applied(_aside("Workload", "{address: nowhere}")) is None


def test_a_resource_that_is_valid_stands_for_itself() -> None:
    value = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    resource: Resource = parse_object(value)

    assert applied(resource) is resource


def test_a_message_tells_some_violations_and_counts_the_rest() -> None:
    ports = ",".join(["{port: 0}"] * (SHOWN_MAX + 2))
    aside = _aside("Service", f"{{ports: [{ports}]}}")

    assert aside.problem.count("is out of range") == SHOWN_MAX
    assert aside.problem.endswith(f", and {len(aside.violations) - SHOWN_MAX} more")
