"""The small values that resources are made of: names, ports, durations, patterns.

Each is an annotated type whose validator says what is wrong and what is allowed. A message
and its `allowed` travel in a `PydanticCustomError`; `violations.py` turns it into a Violation.
"""

import re
import re._parser as _regex  # type: ignore[import-not-found]
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, Strict
from pydantic.json_schema import WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from tulle.resources.violations import Problems

REGEX_BYTES_MAX: Final = 1024
"""The bound of the Gateway API for header, query and path values."""

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HOSTNAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_PRECISE_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_VISIBLE = r"\x21-\x7e\xa0-\U0010ffff"
_HEADER_VALUE = re.compile(rf"([{_VISIBLE}]([\t {_VISIBLE}]*[{_VISIBLE}])?)?")
_PATTERN = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[(?P<address>[^\]%]*)\])(:[0-9]*)?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_LABEL_KEY = re.compile(rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_APP_PROTOCOL = re.compile(rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_DURATION_PART = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def is_authority(value: str) -> bool:
    """Whether *value* is a host name or an IP address, and a port if there is one (RFC 3986)."""
    found = _AUTHORITY.fullmatch(value)
    if found is None or found["address"] is None:
        return found is not None
    try:
        return bool(IPv6Address(found["address"]))
    except ValueError:
        return False


def wrong(message: str, allowed: str) -> PydanticCustomError:
    """Return the error of a value: *message* says what is wrong, *allowed* what is right."""
    return PydanticCustomError(
        "value", "{message}; {allowed}", {"message": message, "allowed": allowed}
    )


def text(pattern: re.Pattern[str], length_max: int, allowed: str) -> tuple[Any, Any]:
    """Return validator and JSON Schema of a string of at most *length_max* characters."""

    def check(value: str) -> str:
        if len(value) > length_max:
            raise wrong(f"{len(value)} characters are too many", f"at most {length_max}")
        if not pattern.fullmatch(value):
            raise wrong(f'"{value}" is not allowed', allowed)
        return value

    return AfterValidator(check), WithJsonSchema(
        {"type": "string", "pattern": f"^{pattern.pattern}$", "maxLength": length_max}
    )


_NAME_RULE = "lower-case letters, digits and '-', starting and ending with a letter or digit"
_SUBDOMAIN_RULE = (
    "lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"
)

DnsLabel = Annotated[str, *text(_DNS_LABEL, 63, _NAME_RULE)]
"""An RFC 1123 label: the name of a Namespace, a Service, a route rule."""
DnsSubdomain = Annotated[str, *text(_DNS_SUBDOMAIN, 253, _SUBDOMAIN_RULE)]
"""An RFC 1123 subdomain: the name of most objects."""
Hostname = Annotated[
    str, *text(_HOSTNAME, 253, "a host name, or *. followed by one; no port, no IP address")
]
PreciseHostname = Annotated[
    str, *text(_PRECISE_HOSTNAME, 253, "a host name in lower case without wildcard or port")
]
HeaderName = Annotated[
    str, *text(_HEADER_NAME, 256, "letters, digits and !#$%&'*+-.^_`|~ (RFC 9110)")
]
HeaderValue = Annotated[
    str,
    *text(_HEADER_VALUE, 4096, "visible characters, between them spaces and tabs (RFC 9110)"),
]
HeaderPattern = Annotated[
    str, *text(_PATTERN, 4096, "visible characters, spaces and tabs (RFC 9110)")
]
"""What the value of a header field is compared with; an expression may end with a space."""
PortName = Annotated[
    str, *text(_PORT_NAME, 63, "lower-case letters, digits and '-' with at least one letter")
]
LabelKey = Annotated[
    str,
    *text(_LABEL_KEY, 317, "[prefix/]name of letters, digits, '-', '_' and '.'"),
]
LabelValue = Annotated[
    str,
    *text(
        _LABEL_VALUE,
        63,
        "empty, or letters, digits, '-', '_' and '.', starting and ending with a letter or digit",
    ),
]
AppProtocol = Annotated[
    str, *text(_APP_PROTOCOL, 253, "a protocol name such as http, grpc, kubernetes.io/h2c")
]
Labels = dict[LabelKey, LabelValue]

Integer = Annotated[int, Strict()]
Boolean = Annotated[bool, Strict()]


def _between(low: int, high: int) -> tuple[Any, Any, Any]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise wrong(f"{value} is out of range", f"{low} to {high}")
        return value

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Strict(), AfterValidator(check), WithJsonSchema(schema)


PortNumber = Annotated[int, *_between(1, 65535)]
Weight = Annotated[int, *_between(0, 1_000_000)]
Percent = Annotated[int, *_between(0, 100)]
Count = Annotated[int, *_between(1, 1_000_000)]
"""How many of something may exist; the upper bound only stops typing errors."""
Rate = Annotated[int, *_between(0, 1_000_000)]
RetryAttempts = Annotated[int, *_between(1, 10)]
"""Tries after the first; more than ten multiply load in an outage and help nobody."""
RetryCode = Annotated[int, *_between(400, 599)]


def _target_port(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong("must be a port number or a port name", "1 to 65535, or a name")
    if isinstance(value, int):
        if not 1 <= value <= 65535:
            raise wrong(f"{value} is out of range", "1 to 65535")
    elif not _PORT_NAME.fullmatch(value) or len(value) > 63:
        raise wrong(f'"{value}" is not allowed', "a port number, or the name of a workload's port")
    return value


TargetPort = Annotated[
    int | str,
    BeforeValidator(_target_port),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": f"^{_PORT_NAME.pattern}$", "maxLength": 63},
            ]
        }
    ),
]


class Duration(str):
    """A GEP-2257 duration such as `1h30m`, `500ms` or `0s`, kept as the user wrote it."""

    __slots__ = ()

    @property
    def ms(self) -> int:
        """The whole duration in milliseconds."""
        parts = _DURATION_PART.findall(self)
        return sum(int(number) * _MILLISECONDS[unit] for number, unit in parts)

    @classmethod
    def parse(cls, value: str) -> "Duration":
        """Return *value* as a duration.

        Raises:
            PydanticCustomError: it is not one.
        """
        if not _DURATION.fullmatch(value):
            raise wrong(
                f'"{value}" is not a duration', "one to four of <number>h, m, s or ms, as in 1m30s"
            )
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[object], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_DURATION.pattern}$"}


def _bounded(low_ms: int, high_ms: int, allowed: str) -> Callable[[Duration], Duration]:
    def check(value: Duration) -> Duration:
        if not low_ms <= value.ms <= high_ms:
            raise wrong(f'"{value}" is out of range', allowed)
        return value

    return check


DAY_MS: Final = 24 * 3_600_000
Timeout = Annotated[Duration, AfterValidator(_bounded(0, DAY_MS, "0s (no limit) to 24h"))]
Interval = Annotated[Duration, AfterValidator(_bounded(1, DAY_MS, "1ms to 24h"))]


def check_pattern(type_: str, value: str) -> None:
    """Check the `value` of a match, if *type_* says that it is a regular expression.

    Raises:
        PydanticCustomError: it is not one that the engine can run.
    """
    if type_ == "RegularExpression" and (message := regex_problem(value)):
        problems = Problems()
        problems.add(("value",), message, f"RE2 syntax, at most {REGEX_BYTES_MAX} bytes")
        problems.raise_any()


def regex_problem(value: str, bytes_max: int = REGEX_BYTES_MAX) -> str | None:
    """Return what is wrong with *value* as a regular expression, or None.

    It must compile here and in the engine, whose matcher never backtracks: no look-around, no
    back-references, no atomic groups, no possessive quantifiers.
    """
    if (length := len(value.encode())) > bytes_max:
        return f"{length} bytes are too many"
    try:
        parsed = _regex.parse(value)
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return f'"{value}" is not a regular expression: {error}'
    if foreign := _PYTHON_ONLY.search(value.replace(r"\\", "")):
        return f'"{value}" has "{foreign[0]}", which only Python knows'
    if needs := _backtracks(parsed):
        return f'"{value}" has {needs}'
    return None


_PYTHON_ONLY = re.compile(r"\\Z|\(\?#|\{,")
_BACKTRACKING = {
    "ASSERT": "look-around",
    "ASSERT_NOT": "look-around",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive quantifier",
}


def _backtracks(part: Any) -> str | None:
    """Return what in the parsed expression *part* needs backtracking, or None."""
    if str(part) in _BACKTRACKING:
        return _BACKTRACKING[str(part)]
    if isinstance(part, list | tuple | _regex.SubPattern):
        return next((found for item in part if (found := _backtracks(item))), None)
    return None
