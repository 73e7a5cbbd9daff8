"""The documentation: nothing in it points, names or claims what is not there."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bench import readme
from bench.report import RESULTS
from docs import metrics_reference
from tulle.cli.main import cli
from tulle.local.project import App, Dependency, Manifest, MeshSettings, Readiness, load_project
from tulle.record.traffic import Traffic
from tulle.resources.model import Model
from tulle.resources.parse import parse_texts

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")

page_parameter = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def _links(page: Path) -> Iterator[str]:
    """Yield the targets of *page*'s links; those in code are none."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    yield from (target for target in LINK.findall(text) if "://" not in target)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of *page*'s headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _blocks(page: Path, *languages: str) -> Iterator[str]:
    yield from (text for name, text in FENCE.findall(page.read_text()) if name in languages)


def _commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every tulle command line in *page*'s code."""
    lines = [line for block in _blocks(page, "sh", "console", "") for line in block.splitlines()]
    lines += re.findall(r"`(tulle [^`\n]+)`", FENCE.sub("", page.read_text()))
    for line in lines:
        if found := re.match(r"(?:\$ )?tulle (.+)", line):
            yield shlex.split(found[1].partition(" > ")[0], comments=True)


@page_parameter
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in _anchors(found)):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in reached:
            reached.add(page)
            found = [(page.parent / target.partition("#")[0]).resolve() for target in _links(page)]
            queue += [path for path in found if path.suffix == ".md" and path.exists()]

    assert set(PAGES) - reached == set()


@page_parameter
def test_every_command_and_option_exists(page: Path) -> None:
    """The reference of the commands is made from them, and shows them with placeholders."""
    generated = page == ROOT / "docs/reference/commands.md"
    unknown = [words for words in _commands(page) if not generated and not _is_known(words)]

    assert unknown == []


def _is_known(words: list[str]) -> bool:
    """Whether the command exists and has all options that *words* give it."""
    command: click.Command = cli
    context = click.Context(cli, info_name="tulle")
    options: set[str] = set()
    for word in words:
        if word == "--":  # what follows is another program's
            break
        if re.match(r"--?[a-zA-Z]", word):
            options.add(word.partition("=")[0])
        elif isinstance(command, click.Group):
            inner = command.get_command(context, word)
            if inner is None:
                return False
            command, context = inner, click.Context(inner, context, word)
    parameters = [*cli.params, *command.get_params(context)]
    return options <= {name for parameter in parameters for name in parameter.opts}


@page_parameter
def test_every_make_target_exists(page: Path) -> None:
    named = re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), flags=re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert set(named) - targets == set()


@page_parameter
def test_every_file_of_the_source_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`((?:src|engine|tests|bench|docs)/[\w./-]+)(?::(\w+))?`", page.read_text())
    wrong = [
        f"{path}:{name}"
        for path, name in named
        if not (ROOT / path).exists() or (name and name not in (ROOT / path).read_text())
    ]

    assert wrong == []


@page_parameter
def test_every_example_in_yaml_is_right(page: Path, tmp_path: Path) -> None:
    for text in _blocks(page, "yaml"):
        value = yaml.safe_load(text)
        if "apps" in value:
            for relative in value.get("resources", ()):
                (tmp_path / relative).touch()
            load_project(tmp_path / "tulle.yaml", text)
        else:
            parse_texts([(page.name, text.encode())], "default")


def test_the_page_of_tulle_yaml_shows_every_key() -> None:
    example = yaml.safe_load(next(_blocks(ROOT / "docs/concepts/local.md", "yaml")))
    app = example["apps"]["cart"]
    shown: list[tuple[type[Model], dict[str, Any]]] = [
        (Manifest, example),
        (MeshSettings, example["mesh"]),
        (App, app),
        (Readiness, app["readiness"]),
        (Dependency, app["dependsOn"][1]),
    ]

    for model, keys in shown:
        assert {field.alias for field in model.model_fields.values()} == set(keys), model.__name__


def test_the_page_of_traffic_has_the_defaults_that_hold() -> None:
    table = (ROOT / "docs/concepts/traffic.md").read_text().partition("## Defaults")[2]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", table.partition("\n## ")[0], re.MULTILINE)

    assert {name: value.replace("`", "") for name, value in rows} == _defaults(Traffic())


def _defaults(traffic: Traffic) -> dict[str, str]:
    assert traffic.outlier is not None
    retry, budget, limits, outlier = (
        traffic.retry,
        traffic.retry_budget,
        traffic.limits,
        traffic.outlier,
    )
    values: dict[str, Any] = {
        "loadBalancer.type": {"p2c_ewma": "PeakEWMA"}[traffic.load_balancer],
        "timeouts.connect": _duration(traffic.connect_timeout_ms),
        "timeouts.request": _duration(traffic.request_timeout_ms),
        "timeouts.perTry": _duration(traffic.per_try_timeout_ms),
        "timeouts.idle": _duration(traffic.idle_timeout_ms),
        "proxyProtocol": "V2" if traffic.proxy_protocol else "none",
        "retry.on": ", ".join(retry.on),
        "retry.codes": ", ".join(map(str, retry.codes)) or "none",
        "retry.grpcStatuses": ", ".join(map(str, retry.grpc_statuses)) or "none",
        "retry.attempts": retry.attempts,
        "retry.backoff.base": _duration(retry.backoff_base_ms),
        "retry.backoff.max": _duration(retry.backoff_max_ms),
        "retryBudget.percent": budget.percent,
        "retryBudget.minPerSecond": budget.min_per_second,
        "limits.connections": limits.connections,
        "limits.pending": limits.pending,
        "limits.requests": limits.requests,
        "outlierDetection.consecutiveFailures": outlier.consecutive_failures,
        "outlierDetection.baseEjection": _duration(outlier.base_ejection_ms),
        "outlierDetection.maxEjection": _duration(outlier.max_ejection_ms),
        "outlierDetection.maxEjectedPercent": outlier.max_ejected_percent,
    }
    return {name: str(value) for name, value in values.items()}


def _duration(ms: int) -> str:
    return f"{ms}ms" if ms % 1000 else f"{ms // 1000}s"


def test_the_page_of_telemetry_has_every_field_of_the_access_log() -> None:
    source = (ROOT / "engine/core/src/observe/mod.rs").read_text()
    written = re.findall(
        r'^\s+"(\w+)":', source.partition("json!({")[2].partition("})")[0], re.MULTILINE
    )
    page = (ROOT / "docs/concepts/telemetry.md").read_text()
    table = page.partition("| field | meaning")[2].partition("\n\n")[0]
    explained = [
        name
        for cell in re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    ]

    assert sorted(explained) == sorted(written)


def test_the_page_of_metrics_is_what_the_engine_says() -> None:
    """Renew it with `python docs/metrics_reference.py`."""
    assert metrics_reference.PAGE.read_text() == metrics_reference.page()


def test_the_page_of_metrics_has_every_metric_and_reason() -> None:
    source = (metrics_reference.ENGINE / "observe/metrics.rs").read_text()
    named = set(re.findall(r'"((?:tulle|process)_\w+)"', source))
    reasons = re.findall(
        r'= "([\w-]+)", \w+, \w+;', (ROOT / "engine/core/src/error.rs").read_text()
    )
    page = metrics_reference.page()

    assert {name for name, _, _ in metrics_reference.metrics()} == named
    assert [reason for reason in reasons if f"| `{reason}` |" not in page] == []


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_those_of_the_last_run(page: Path) -> None:
    """Renew them with `python -m bench.readme`."""
    text = page.read_text()
    block = readme.PAGES[page](json.loads(RESULTS.read_text()))

    assert readme.filled(text, block) == text


def test_numbers_that_were_not_measured_are_dashes() -> None:
    machine = {"processor": "P", "cores": 2}
    row = {"workload": "plain-http1-32c", "contender": "tulle"}
    measured = {"cpu_us_per_request": 20.4, "ratio_to_floor": 2.24}
    document = {
        "rows": [row | measured],
        "written": "2026-01-02T03:04:05",
        "machine": machine,
        "method": {"load_average": 7.5},
    }

    assert readme.block(document).splitlines()[2:] == [
        "| **Tulle** | 20 µs, 2.2x | - | - | - |",
        "",
        "Measured 2026-01-02 on 2 cores of P, beside other work (load average 7.5): only ratios tell.",
        "[How](bench/README.md) · [goals](docs/performance.md)",
    ]
