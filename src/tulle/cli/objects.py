"""Finding resources by the words of a command line, with a good answer when there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tulle.cli.exits import CommandError, ExitCode, did_you_mean
from tulle.cli.kinds import KINDS, Kind, find_kinds, name_of
from tulle.cli.tables import items, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from tulle.cli.client import ApiClient
    from tulle.cli.options import Session

COMPLETION_TIMEOUT_S = 0.3
"""A TAB that waits longer than this feels broken."""

Reference = tuple[Kind, str, str]
"""Kind, namespace and name; the namespace counts only for a namespaced kind."""


def parse_references(session: Session, words: Sequence[str]) -> list[Reference]:
    """Read `KIND NAME...`, or `KIND/NAME ...` with or without a namespace between them."""
    if not words:
        raise CommandError(
            "nothing named", code=ExitCode.USAGE, hint="name a kind and an object: service cart"
        )
    first, *names = words
    if "/" in first:
        return [_reference(session, word) for word in words]
    (kind,) = single_kind(first)
    if not names:
        raise CommandError(
            f"no name of a {kind.name} given",
            code=ExitCode.USAGE,
            hint=f"list them with: tulle get {kind.plural} -A",
        )
    return [(kind, *session.qualify(name)) for name in names]


def single_kind(word: str) -> tuple[Kind]:
    """Return the one kind that *word* names."""
    kinds = find_kinds(word)
    if len(kinds) != 1:
        raise CommandError(
            f'"{word}" names several kinds',
            code=ExitCode.USAGE,
            hint="name one of " + ", ".join(kind.name.lower() for kind in kinds),
        )
    return (kinds[0],)


def _reference(session: Session, word: str) -> Reference:
    kind_word, slash, name = word.partition("/")
    if not slash:
        raise CommandError(
            f'"{word}" is not KIND/NAME', code=ExitCode.USAGE, hint=f"write for example {word}/cart"
        )
    (kind,) = single_kind(kind_word)
    return (kind, *session.qualify(name))


def fetch(client: ApiClient, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
    """Return the object, or raise a not-found error that says what there is instead."""
    try:
        found: dict[str, Any] = client.get(kind.path(namespace, name))
    except CommandError as error:
        if error.code != ExitCode.NOT_FOUND:
            raise
        raise not_found(client, kind, namespace, name) from error
    return named(found, kind)


def not_found(client: ApiClient, kind: Kind, namespace: str, name: str) -> CommandError:
    """Return the error that there is no such object, with the nearest name as hint."""
    others = [
        (item["metadata"].get("namespace"), item["metadata"]["name"])
        for item in items(client, kind)
    ]
    elsewhere = [space for space, other in others if other == name and space]
    here = [other for space, other in others if space in {namespace, None}]
    if elsewhere:
        hint = f"there is one in namespace {elsewhere[0]}: -n {elsewhere[0]}"
    else:
        hint = did_you_mean(name, here) or f"list what there is with: tulle get {kind.plural} -A"
    return CommandError(
        f'no {kind.name} "{name}"' + (f" in namespace {namespace}" if kind.namespaced else ""),
        code=ExitCode.NOT_FOUND,
        where=name_of(kind.name, namespace if kind.namespaced else None, name),
        hint=hint,
    )


def complete_kind(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the plural of a kind; after one, the names of its objects."""
    words = list(ctx.params.get("words") or ())
    if not words:
        return [kind.plural for kind in KINDS if kind.plural.startswith(incomplete)]
    return [name for name in names_for_completion(ctx, words[0]) if name.startswith(incomplete)]


def complete_service(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a service."""
    return [name for name in names_for_completion(ctx, "service") if name.startswith(incomplete)]


def names_for_completion(ctx: click.Context, word: str) -> list[str]:
    """Return the names of all objects of the kind *word*; none when anything is wrong."""
    from tulle.cli.client import ApiClient, find_server
    from tulle.cli.options import Session

    session = ctx.find_object(Session) or Session()
    try:
        client = ApiClient(find_server(session.server), timeout_s=COMPLETION_TIMEOUT_S)
        (kind,) = single_kind(word)
        found = items(client, kind, session.chosen_namespace)
    except CommandError:
        return []
    if session.chosen_namespace or not kind.namespaced:
        return [item["metadata"]["name"] for item in found]
    return [
        item["metadata"]["name"]
        if item["metadata"]["namespace"] == session.namespace
        else f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        for item in found
    ]
