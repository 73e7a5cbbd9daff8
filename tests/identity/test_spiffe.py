"""A SPIFFE id is valid or does not exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.errors import IdentityError
from tulle.identity.spiffe import SpiffeId

LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
DOMAIN = st.from_regex(r"[a-z0-9._-]{1,255}", fullmatch=True)


@given(st.builds(SpiffeId, DOMAIN, LABEL, LABEL))
def test_an_id_survives_its_text(identity: SpiffeId) -> None:
    assert SpiffeId.parse(str(identity)) == identity
    assert str(identity) == "spiffe://" + identity.principal


@given(st.text(max_size=40) | st.text(max_size=30).map(lambda rest: "spiffe://td/ns/" + rest))
def test_any_text_is_an_id_or_refused(text: str) -> None:
    try:
        identity = SpiffeId.parse(text)
    except IdentityError:
        return
    assert str(identity) == text


REFUSED = [
    "",
    "tulle.local/ns/shop/sa/web",
    "SPIFFE://tulle.local/ns/shop/sa/web",
    "https://tulle.local/ns/shop/sa/web",
    "spiffe://tulle.local",
    "spiffe://tulle.local/",
    "spiffe:///ns/shop/sa/web",
    "spiffe://Tulle.local/ns/shop/sa/web",
    "spiffe://tulle.local:80/ns/shop/sa/web",
    "spiffe://me@tulle.local/ns/shop/sa/web",
    "spiffe://" + "a" * 256 + "/ns/shop/sa/web",
    "spiffe://tulle.local/sa/web/ns/shop",
    "spiffe://tulle.local/ns/shop/sa/web/",
    "spiffe://tulle.local/ns//sa/web",
    "spiffe://tulle.local/ns/../sa/web",
    "spiffe://tulle.local/ns/shop/sa/w%65b",
    "spiffe://tulle.local/ns/shop/sa/web?x",
    "spiffe://tulle.local/ns/shop/sa/web\n",
    "spiffe://tulle.local/ns/" + "a" * 64 + "/sa/web",
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(IdentityError):
        SpiffeId.parse(text)
