"""The error of a bound that is reached for now: try again later."""

from tulle.errors import TulleError


class TooMany(TulleError):
    """As many of something are in use as may be; the message says of what, and how many."""
