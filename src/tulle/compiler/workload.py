"""The record of a workload: what its own sidecar demands of those who call it."""

from tulle.compiler.mtls import mtls_of
from tulle.mesh.mesh import Mesh
from tulle.mesh.select import authorization_policies
from tulle.record.workload import Authorization, AuthRule, From, Policy, To, WorkloadRecord
from tulle.resources.authorizationpolicy import AuthorizationPolicy, Operation
from tulle.resources.authorizationpolicy import Source as Caller
from tulle.resources.model import ObjectName
from tulle.resources.parse import source_of


def compile_workload(mesh: Mesh, name: ObjectName, trust_domain: str) -> WorkloadRecord | None:
    """Return the record of the Workload *name*, or None if there is no such Workload."""
    workload = mesh.workload(name)
    if workload is None:
        return None
    mtls = mtls_of(mesh, workload)
    policies = authorization_policies(mesh, workload)
    return WorkloadRecord(
        namespace=name.namespace,
        name=name.name,
        service_account=workload.spec.service_account,
        mtls=mtls.mode,
        port_mtls=mtls.ports,
        authorization=Authorization(
            default=mesh.namespace(name.namespace).default_authorization,
            policies=tuple(_policy(policy, trust_domain) for policy in policies),
        ),
    )


def _policy(policy: AuthorizationPolicy, trust_domain: str) -> Policy:
    namespace = policy.metadata.namespace or ""
    return Policy(
        name=str(policy.object_name),
        action="deny" if policy.spec.action == "DENY" else "allow",
        rules=tuple(
            AuthRule(
                source=source_of(policy, f"spec.rules[{index}]"),
                from_=tuple(_from(each.source, namespace, trust_domain) for each in rule.from_),
                to=tuple(_to(each.operation) for each in rule.to),
            )
            for index, rule in enumerate(policy.spec.rules)
        ),
    )


def _from(caller: Caller, namespace: str, trust_domain: str) -> From:
    def principals(accounts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_principal(account, namespace, trust_domain) for account in accounts)

    return From(
        principals=caller.principals + principals(caller.service_accounts),
        not_principals=caller.not_principals + principals(caller.not_service_accounts),
        namespaces=caller.namespaces,
        not_namespaces=caller.not_namespaces,
    )


def _principal(account: str, namespace: str, trust_domain: str) -> str:
    """Return the principal of `<name>` in *namespace*, or of `<namespace>/<name>`."""
    given, _, name = account.rpartition("/")
    return f"{trust_domain}/ns/{given or namespace}/sa/{name}"


def _to(operation: Operation) -> To:
    return To(
        methods=operation.methods,
        not_methods=operation.not_methods,
        paths=operation.paths,
        not_paths=operation.not_paths,
        ports=tuple(int(port) for port in operation.ports),
        not_ports=tuple(int(port) for port in operation.not_ports),
    )
