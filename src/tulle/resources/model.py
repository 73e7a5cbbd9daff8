"""The model every part of every resource is built on, and the metadata all of them share."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from tulle.resources.values import DnsLabel, DnsSubdomain, Integer, LabelKey, Labels, wrong

DEFAULT_NAMESPACE = "default"
LABELS_MAX = 128
ANNOTATIONS_MAX = 128
ANNOTATION_LENGTH_MAX = 256 * 1024
"""All annotations of one object together, as in Kubernetes."""


class Model(BaseModel):
    """A frozen value with camelCase keys; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        defer_build=True,
    )


class ObjectName(NamedTuple):
    """A namespaced name; sorts by namespace, then name. Namespace is "" for cluster scope."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`, or the name alone for cluster scope."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ResourceKey(NamedTuple):
    """What identifies one object: its kind (unique over all groups), namespace and name."""

    kind: str
    namespace: str
    name: str

    @property
    def object_name(self) -> ObjectName:
        """The key without its kind."""
        return ObjectName(self.namespace, self.name)

    def __str__(self) -> str:
        """Return `HTTPRoute shop/cart`, the way messages name an object."""
        return f"{self.kind} {self.object_name}"


def _annotations_fit(value: dict[str, str]) -> dict[str, str]:
    size = sum(len(key) + len(text) for key, text in value.items())
    if size > ANNOTATION_LENGTH_MAX:
        raise wrong(f"{size} characters are too many", f"at most {ANNOTATION_LENGTH_MAX}")
    return value


class ObjectMeta(Model):
    """Kubernetes' object metadata; all but name, namespace, labels, annotations is the store's."""

    name: DnsSubdomain
    """Unique among the objects of one kind in one namespace."""
    namespace: DnsLabel | None = None
    """Where the object lives; "default" if not given. Not allowed on a Namespace."""
    labels: Annotated[Labels, Field(max_length=LABELS_MAX)] = Field(default_factory=dict)
    """Key and value pairs that selectors look at."""
    annotations: Annotated[
        dict[LabelKey, str], Field(max_length=ANNOTATIONS_MAX), AfterValidator(_annotations_fit)
    ] = Field(default_factory=dict)
    """Key and value pairs that nothing selects by."""
    uid: str | None = None
    """Set by the store: differs between two objects that had the same name one after another."""
    resource_version: str | None = None
    """Set by the store; when given on a change, the change is refused if it is out of date."""
    generation: Integer | None = None
    """Set by the store: counts the changes of the spec."""
    creation_timestamp: str | None = None
    """Set by the store: RFC 3339, in UTC."""
    deletion_timestamp: str | None = None
    """Accepted from Kubernetes, ignored."""
    deletion_grace_period_seconds: Integer | None = None
    """Accepted from Kubernetes, ignored."""
    generate_name: str | None = None
    """Accepted from Kubernetes, ignored: `name` is required."""
    finalizers: tuple[str, ...] = ()
    """Accepted from Kubernetes, ignored."""
    owner_references: tuple[dict[str, JsonValue], ...] = ()
    """Accepted from Kubernetes, ignored."""
    managed_fields: tuple[dict[str, JsonValue], ...] = ()
    """Accepted from Kubernetes, ignored."""
    self_link: str | None = None
    """Accepted from Kubernetes, ignored."""


class LabelNamedMeta(ObjectMeta):
    """Metadata of a kind whose name is also part of host names."""

    name: DnsLabel
    """Unique among the objects of one kind in one namespace."""


class Resource(Model):
    """One object as its user wrote it; each kind is a subclass with `spec` and perhaps `status`."""

    api_version: str
    kind: str
    metadata: ObjectMeta
    """Name, namespace, labels and annotations, and what the store adds."""
    status: Model | None = None
    """What controllers say of it; each kind has its own."""

    @property
    def key(self) -> ResourceKey:
        """What identifies this object in the store."""
        return ResourceKey(self.kind, self.metadata.namespace or "", self.metadata.name)

    @property
    def object_name(self) -> ObjectName:
        """Namespace and name."""
        return ObjectName(self.metadata.namespace or "", self.metadata.name)

    def to_object(self) -> dict[str, Any]:
        """Return the object as JSON values, holding what was written and no defaults."""
        written = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if "status" in written:
            written["status"] = written.pop("status")  # last, as people expect it
        return {"apiVersion": self.api_version, "kind": self.kind, **written}


class Condition(Model):
    """One aspect of an object's state, as its controller sees it."""

    type: str
    """Accepted, ResolvedRefs, …"""
    status: str
    """True, False or Unknown."""
    reason: str
    """One word in CamelCase for programs."""
    message: str = ""
    """A sentence for people."""
    observed_generation: Integer | None = None
    """The generation this was judged from."""
    last_transition_time: str | None = None
    """When `status` last changed: RFC 3339, in UTC."""


class LabelSelector(Model):
    """Selects by labels; every given pair must be there. Empty selects everything."""

    match_labels: Labels = Field(default_factory=dict)
    """Label keys and the exact values they must have."""

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether *labels* have every pair."""
        return all(labels.get(key) == value for key, value in self.match_labels.items())
