"""Namespace (core v1): a space of names, and the default for who may call whom in it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tulle.resources.model import LABELS_MAX, Condition, LabelNamedMeta, Model, Resource
from tulle.resources.values import Labels
from tulle.resources.violations import Problems

DEFAULT_AUTHORIZATION_LABEL = "tulle.dev/default-authorization"
"""On a Namespace: `deny` refuses every request no policy allows; `allow` is the default."""


def _labels_fit(labels: dict[str, str]) -> dict[str, str]:
    value = labels.get(DEFAULT_AUTHORIZATION_LABEL, "allow")
    if value not in ("allow", "deny"):
        problems = Problems()
        problems.add((DEFAULT_AUTHORIZATION_LABEL,), f'"{value}" is not known', "allow or deny")
        problems.raise_any()
    return labels


class NamespaceMeta(LabelNamedMeta):
    """Metadata of what is itself in no namespace."""

    namespace: None = None
    """Not allowed."""
    labels: Annotated[Labels, Field(max_length=LABELS_MAX), AfterValidator(_labels_fit)] = Field(
        default_factory=dict
    )
    """Key and value pairs; `tulle.dev/default-authorization` is `deny` or `allow`."""


class NamespaceSpec(Model):
    """Nothing that the mesh uses."""

    finalizers: tuple[str, ...] = ()
    """Accepted from Kubernetes, ignored."""


class NamespaceStatus(Model):
    """As Kubernetes reports it."""

    phase: str | None = None
    """Active or Terminating."""
    conditions: tuple[Condition, ...] = ()
    """Accepted from Kubernetes, ignored."""


class Namespace(Resource):
    """A space of names; its label `tulle.dev/default-authorization` is `deny` or `allow`."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Namespace"] = "Namespace"
    metadata: NamespaceMeta
    """Its name, and labels."""
    spec: NamespaceSpec = Field(default_factory=NamespaceSpec)
    """Nothing that the mesh uses."""
    status: NamespaceStatus | None = None
    """As Kubernetes reports it."""

    @property
    def default_authorization(self) -> Literal["allow", "deny"]:
        """What happens to a request that no policy speaks about."""
        value = self.metadata.labels.get(DEFAULT_AUTHORIZATION_LABEL)
        return "deny" if value == "deny" else "allow"
