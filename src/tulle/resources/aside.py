"""A stored object that the rules of this version refuse: kept as it is written, not applied.

Something stands in for it, made of what no violation names, that closes and never opens: a rule
of a route answers 500 for what it matched, a policy allows less and denies more. A Workload has
none: its sidecar registers it anew, and is sent nothing until then.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from tulle.errors import Violation
from tulle.resources.authorizationpolicy import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    From,
    Rule,
    To,
)
from tulle.resources.backendtrafficpolicy import BackendTrafficPolicy, BackendTrafficPolicySpec
from tulle.resources.grpcroute import GRPCRoute
from tulle.resources.httproute import HTTPRoute
from tulle.resources.model import LabelSelector, Model, ObjectMeta, Resource, ResourceKey
from tulle.resources.namespace import DEFAULT_AUTHORIZATION_LABEL, Namespace, NamespaceSpec
from tulle.resources.peerauthentication import PeerAuthentication, PeerAuthenticationSpec
from tulle.resources.policy import TargetRef
from tulle.resources.registry import KINDS
from tulle.resources.route import ParentRef
from tulle.resources.service import Service, ServiceSpec
from tulle.resources.tcproute import TCPRoute
from tulle.resources.tlsroute import TLSRoute
from tulle.resources.values import Hostname
from tulle.resources.violations import inner_model

SHOWN_MAX: Final = 8
"""Violations told in one message."""

_AT: Final = re.compile(r"spec\.(?P<field>\w+)(\[(?P<index>\d+)\])?")

ModelT = TypeVar("ModelT", bound=Model)


class Aside(Resource):
    """An object as it is written, what is wrong with it, and what stands in for it."""

    written: dict[str, Any]
    violations: tuple[Violation, ...]
    stand_in: Annotated[Resource | None, Field(exclude=True)]

    @property
    def in_force(self) -> Resource | None:
        """What is applied in its place; None: nothing."""
        if self.stand_in is None:
            return None
        return self.stand_in.model_copy(update={"metadata": self.metadata, "status": self.status})

    @property
    def problem(self) -> str:
        """What is wrong, in one sentence."""
        told = [str(violation._replace(resource="")) for violation in self.violations[:SHOWN_MAX]]
        more = len(self.violations) - len(told)
        return ", and ".join(told + ([f"{more} more"] if more else []))

    def to_object(self) -> dict[str, Any]:
        """Return the object as it is written, with what the store and controllers say of it."""
        stamps = {
            "resourceVersion": self.metadata.resource_version,
            "generation": self.metadata.generation,
        }
        known = {name: value for name, value in stamps.items() if value is not None}
        shown = {**self.written, "metadata": {**self.written["metadata"], **known}}
        if self.status is not None:
            shown.pop("status", None)
            shown["status"] = self.status.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return shown


def applied(resource: Resource | None) -> Resource | None:
    """Return what is applied of *resource*: itself, or what stands in for it."""
    return resource.in_force if isinstance(resource, Aside) else resource


def set_aside(key: ResourceKey, value: object, violations: Sequence[Violation]) -> Aside | None:
    """Return the stored *value* of *key*, which was refused; None if it is no object of that key."""
    kind = KINDS.get(key.kind)
    if kind is None or not isinstance(value, dict) or value.get("kind") != key.kind:
        return None
    given = value.get("metadata")
    if not isinstance(given, dict):
        return None
    if (given.get("namespace") or "", given.get("name")) != (key.namespace, key.name):
        return None
    metadata = _metadata(kind.model, key, given)
    return Aside.model_construct(
        api_version=kind.api_versions[0],
        kind=key.kind,
        metadata=metadata,
        status=_valid(_inner(kind.model, "status"), value.get("status")),
        written=value,
        violations=tuple(violations),
        stand_in=_stand_in(kind.model, metadata, _mapping(value.get("spec")), _Wrong(violations)),
    )


class _Wrong:
    """Where a specification is wrong: in which items of a list, and in which fields beside."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.items: set[tuple[str, int]] = set()
        self.fields: set[str] = set()
        self.is_whole = False
        for path in (violation.path for violation in violations):
            found = _AT.match(path)
            if found is None:
                self.is_whole |= not path.startswith(("metadata", "status"))
            elif found["index"] is None:
                self.fields.add(found["field"])
            else:
                self.items.add((found["field"], int(found["index"])))

    def beside(self, *names: str) -> bool:
        """Whether anything is wrong but these fields and what is in them."""
        return self.is_whole or not self._touched <= set(names)

    def touches(self, name: str) -> bool:
        """Whether the field *name* is wrong, or anything in it."""
        return self.is_whole or name in self._touched

    @property
    def _touched(self) -> set[str]:
        return self.fields | {name for name, _ in self.items}


def _valid(model: type[ModelT], value: object) -> ModelT | None:
    try:
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError:
        return None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _valid_items(model: type[ModelT], value: object) -> tuple[ModelT, ...]:
    return tuple(found for item in _items(value) if (found := _valid(model, item)) is not None)


def _metadata(model: type[Resource], key: ResourceKey, given: dict[str, Any]) -> ObjectMeta:
    def texts(value: object) -> dict[str, str]:
        return {k: v for k, v in _mapping(value).items() if isinstance(v, str)}

    def text(name: str) -> str | None:
        return given[name] if isinstance(given.get(name), str) else None

    labels = texts(given.get("labels"))
    if model is Namespace:
        written = given.get("labels") or {}
        if not isinstance(written, dict) or (
            written.get(DEFAULT_AUTHORIZATION_LABEL) not in (None, "allow")
        ):
            labels[DEFAULT_AUTHORIZATION_LABEL] = "deny"
    generation = given.get("generation")
    return ObjectMeta.model_construct(
        name=key.name,
        namespace=key.namespace or None,
        labels=labels,
        annotations=texts(given.get("annotations")),
        uid=text("uid"),
        resource_version=text("resourceVersion"),
        generation=generation if isinstance(generation, int) else None,
        creation_timestamp=text("creationTimestamp"),
    )


def _stand_in(
    model: type[Resource], metadata: ObjectMeta, spec: dict[str, Any], wrong: _Wrong
) -> Resource | None:
    make = _SPECS.get(model)
    if make is None:
        return None
    if model is Service and wrong.touches("selector"):
        model = _Unselective
    given: dict[str, Any] = {"metadata": metadata, "spec": make(model, spec, wrong)}
    return model.model_construct(**given)


def _route(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Refuse what a wrong rule matches, or what any does where the rules hang together."""
    of_spec = _inner(model, "spec")
    of_rule = _inner(of_spec, "rules")
    every = wrong.beside("rules", "parentRefs") or "rules" in wrong.fields
    rules = tuple(
        (None if every or ("rules", index) in wrong.items else _valid(of_rule, rule))
        or _refusing(of_rule, _mapping(rule))
        for index, rule in enumerate(_items(spec.get("rules")))
    )
    given: dict[str, Any] = {
        "parent_refs": _valid_items(ParentRef, spec.get("parentRefs")),
        "rules": rules or (_refusing(of_rule, {}),),
    }
    if model is TLSRoute:
        given["hostnames"] = _hostnames(spec.get("hostnames"))
    return of_spec.model_construct(**given)


def _refusing(of_rule: type[Model], rule: dict[str, Any]) -> Model:
    """Return a rule without backends for what *rule* matches, and for all where that is unclear."""
    given: dict[str, Any] = {"backend_refs": ()}
    if "matches" in of_rule.model_fields:
        of_match = _inner(of_rule, "matches")
        written = rule.get("matches") or []
        matches: tuple[Model, ...] = _valid_items(of_match, written)
        if not isinstance(written, list) or len(matches) < len(written):
            matches += (of_match(),)
        given["matches"] = matches
    return of_rule.model_construct(**given)


def _inner(model: type[Model], field: str) -> type[Model]:
    found = inner_model(model.model_fields[field].annotation)
    assert found is not None and issubclass(found, Model)  # noqa: PT018, S101
    return found


def _hostnames(written: object) -> tuple[str, ...]:
    valid = TypeAdapter(Hostname)
    found = []
    for name in _items(written):
        try:
            found.append(valid.validate_python(name))
        except ValidationError:
            continue
    return tuple(found)


def _authorization(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Allow only by rules that are right; deny whatever a wrong one may have meant.

    Where it is unclear whom the policy is about, it is about the whole namespace.
    """
    action = spec.get("action", "ALLOW")
    scope = {} if wrong.beside("rules") else {**spec, "rules": ()}
    rules: tuple[Rule, ...] = ()
    if wrong.is_whole or action not in ("ALLOW", "DENY"):
        scope, rules = {"action": "DENY"}, (Rule(),)
    elif action == "DENY":
        scope["action"] = action
        written = [{}] if "rules" in wrong.fields else _items(spec.get("rules"))
        rules = tuple(map(_widened, written))
    elif scope and "rules" not in wrong.fields:
        rules = _valid_items(Rule, spec.get("rules"))
    known = _valid(AuthorizationPolicySpec, scope) or AuthorizationPolicySpec()
    return known.model_copy(update={"rules": rules})


def _widened(written: object) -> Rule:
    """Return the rule as it is, or without the conditions that cannot be read."""
    rule = _mapping(written)
    return _valid(Rule, written) or Rule(
        from_=_all_valid(From, rule.get("from")), to=_all_valid(To, rule.get("to"))
    )


def _all_valid(model: type[ModelT], written: object) -> tuple[ModelT, ...]:
    found = _valid_items(model, written)
    return found if len(found) == len(_items(written)) else ()


def _peer_authentication(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Insist on mutual TLS at every port."""
    selector = None if wrong.touches("selector") else _valid(LabelSelector, spec.get("selector"))
    return PeerAuthenticationSpec.model_construct(selector=selector)


def _traffic(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Leave the targets with the defaults; no younger policy takes its place."""
    targets = _valid_items(TargetRef, spec.get("targetRefs"))
    return BackendTrafficPolicySpec.model_construct(target_refs=targets)


def _namespace(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Hold nothing: its labels say all, and `_metadata` reads them."""
    return NamespaceSpec()


class _Unselective(Service):
    """A Service whose selector cannot be read: policies about it are about every workload."""

    @property
    def selector(self) -> LabelSelector | None:
        """Everything."""
        return LabelSelector()


def _service(model: type[Resource], spec: dict[str, Any], wrong: _Wrong) -> Model:
    """Serve the ports that are right, if it is clear by whom."""
    ports = [
        port
        for index, port in enumerate(_items(spec.get("ports")))
        if ("ports", index) not in wrong.items
    ]
    kept = {name: value for name, value in spec.items() if not wrong.touches(name)}
    known = None if wrong.touches("selector") else _valid(ServiceSpec, {**kept, "ports": ports})
    return known or ServiceSpec.model_construct(selector=kept.get("selector"))


_SPECS: Final[dict[type[Resource], Callable[[type[Resource], dict[str, Any], _Wrong], Model]]] = {
    HTTPRoute: _route,
    GRPCRoute: _route,
    TLSRoute: _route,
    TCPRoute: _route,
    AuthorizationPolicy: _authorization,
    PeerAuthentication: _peer_authentication,
    BackendTrafficPolicy: _traffic,
    Namespace: _namespace,
    Service: _service,
}
