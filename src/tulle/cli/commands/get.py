"""`tulle get`: resources as a table, JSON, YAML or names."""

from collections.abc import Sequence

import click

from tulle.cli.client import ApiClient
from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import GROUPS, Kind, find_kinds, label
from tulle.cli.objects import complete_kind, fetch, parse_references
from tulle.cli.options import (
    Session,
    all_namespaces_option,
    output_option,
    server_options,
    watch_option,
)
from tulle.cli.output import (
    as_list,
    note,
    print_json,
    print_table,
    print_yaml,
)
from tulle.cli.tables import Object, columns_of, items, rows_of
from tulle.cli.watch import watch_kind


@click.command(
    short_help="List resources, or print one.",
    epilog="Example: tulle get services -n shop -o wide",
)
@click.argument(
    "words", nargs=-1, required=True, metavar="KIND [NAME]...", shell_complete=complete_kind
)
@click.option("-l", "--selector", metavar="KEY=VALUE,...", help="With these labels.")
@output_option("table", "wide", "json", "yaml", "name")
@all_namespaces_option
@watch_option
@server_options
@click.pass_obj
def command(
    session: Session,
    words: tuple[str, ...],
    selector: str | None,
    output: str,
    *,
    all_namespaces: bool,
    watch: bool,
) -> None:
    """List the resources of KIND, or those with a NAME.

    KIND is a singular, a plural, a short name, several with commas, or one of
    "routes", "policies" and "all". "KIND/NAME" works, too.
    """
    client = session.client()
    if len(words) > 1 or "/" in words[0]:
        if watch or selector:
            raise click.UsageError("--watch and --selector are for lists, not for names")
        found = [fetch(client, *reference) for reference in parse_references(session, words)]
        _print(client, found, output, all_namespaces=False, single=len(found) == 1)
        return
    kinds = find_kinds(words[0])
    namespace = None if all_namespaces else session.namespace
    if watch:
        if len(kinds) != 1:
            raise CommandError("only one kind can be watched", code=ExitCode.USAGE)
        watch_kind(client, kinds[0], namespace, selector, output)
        return
    found = [item for kind in kinds for item in items(client, kind, namespace, selector)]
    _print(client, found, output, all_namespaces=all_namespaces, single=False)
    if not found and output in {"table", "wide"}:
        _explain_nothing(client, kinds, namespace, words[0])


def _print(
    client: ApiClient, found: Sequence[Object], output: str, *, all_namespaces: bool, single: bool
) -> None:
    if output == "name":
        for item in found:
            print(label(item))
    elif output in {"json", "yaml"}:
        show = print_json if output == "json" else print_yaml
        show(found[0] if single else as_list(found))
    else:
        _print_tables(client, found, wide=output == "wide", all_namespaces=all_namespaces)


def _print_tables(
    client: ApiClient, found: Sequence[Object], *, wide: bool, all_namespaces: bool
) -> None:
    by_kind: dict[str, list[Object]] = {}
    for item in found:
        by_kind.setdefault(item["kind"], []).append(item)
    for number, (name, objects) in enumerate(by_kind.items()):
        (kind,) = find_kinds(name)
        if len(by_kind) > 1:
            print("\n" * bool(number) + f"# {kind.plural}")
        columns = columns_of(kind, all_namespaces=all_namespaces)
        print_table(columns, rows_of(client, kind, objects), wide=wide)


def _explain_nothing(
    client: ApiClient, kinds: Sequence[Kind], namespace: str | None, word: str
) -> None:
    where = f" in namespace {namespace}" if namespace else ""
    note(f"no {'resources' if word in GROUPS else kinds[0].plural}{where}")
    if namespace is None:
        return
    spaces = sorted(
        {item["metadata"].get("namespace", "") for kind in kinds for item in items(client, kind)}
    )
    if spaces:
        note(f"hint: there are some in {', '.join(spaces)}; try -n {spaces[0]}, or -A")
