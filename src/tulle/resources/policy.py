"""What all policies share: what they are about (GEP-713) and their status."""

from typing import Annotated, Final, Literal

from pydantic import Field

from tulle.resources.model import Condition, Model, ObjectName
from tulle.resources.values import DnsLabel, DnsSubdomain
from tulle.resources.violations import Problems

TARGETS_MAX: Final = 16


class TargetRef(Model):
    """A Service in the policy's own namespace."""

    group: Literal[""] = ""
    """The core group."""
    kind: Literal["Service"] = "Service"
    """The only kind a policy can be about."""
    name: DnsSubdomain
    """Name of the Service."""

    def service(self, policy_namespace: str) -> ObjectName:
        """Return the Service this speaks of."""
        return ObjectName(policy_namespace, self.name)


class AncestorRef(Model):
    """The object that a policy's state is told about."""

    group: str = ""
    """The core group."""
    kind: str = "Service"
    """Service."""
    namespace: DnsLabel | None = None
    """Where it lives."""
    name: DnsSubdomain
    """Its name."""


class AncestorStatus(Model):
    """What one controller made of the policy for one target."""

    ancestor_ref: AncestorRef
    """The target."""
    controller_name: str
    """Who says so; ours is `tulle.dev/mesh`."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """Accepted."""


class PolicyStatus(Model):
    """One entry per target and controller, or conditions for a policy without targets."""

    ancestors: Annotated[tuple[AncestorStatus, ...], Field(max_length=TARGETS_MAX)] = ()
    """What each controller made of the policy for each target."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=8)] = ()
    """For a policy that selects workloads."""


def check_targets(targets: tuple[TargetRef, ...]) -> None:
    """Check that *targets* are distinct.

    Raises:
        PydanticCustomError: they are not.
    """
    problems = Problems()
    names = [target.name for target in targets]
    for index, name in enumerate(names):
        if name in names[:index]:
            problems.add(("targetRefs", index), f'"{name}" is a target twice', "each Service once")
    problems.raise_any()
