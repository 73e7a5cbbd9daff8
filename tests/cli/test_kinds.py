"""The kinds of the command line are the kinds of the registry."""

import pytest

from tulle.cli.exits import CommandError, ExitCode
from tulle.cli.kinds import GROUPS, KINDS, find_kinds
from tulle.cli.tables import COLUMNS, SOURCE_ANNOTATION
from tulle.resources import parse, registry


def test_the_table_is_the_registry():
    ours = [(k.name, k.group, k.api_version, k.plural, k.short, k.namespaced) for k in KINDS]
    theirs = [
        (k.name, k.group, k.api_versions[0], k.plural, k.short_names, k.namespaced)
        for k in registry.KINDS.values()
    ]
    assert ours == theirs


def test_every_kind_has_columns():
    assert set(COLUMNS) == set(KINDS)


def test_the_source_annotation_is_that_of_the_parser():
    assert SOURCE_ANNOTATION == parse.SOURCE_ANNOTATION


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("service", ["Service"]),
        ("services", ["Service"]),
        ("SVC", ["Service"]),
        ("svc,wl", ["Service", "Workload"]),
        ("svc,services", ["Service"]),
        ("routes", ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]),
        ("all", [kind.name for kind in GROUPS["all"]]),
    ],
)
def test_kinds_are_found_by_any_of_their_names(words, names):
    assert [kind.name for kind in find_kinds(words)] == names


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(CommandError) as error:
        find_kinds("servcie")
    assert error.value.code == ExitCode.USAGE
    assert error.value.hint is not None
    assert '"service"' in error.value.hint


def test_a_kind_like_no_other_lists_what_there_is():
    with pytest.raises(CommandError) as error:
        find_kinds("zzz")
    assert error.value.hint is not None
    assert "backendtrafficpolicies" in error.value.hint
