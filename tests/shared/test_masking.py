"""Secrets that must not be shown, in URLs and in what others write about them."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitq_shared.masking import hide, mask_url, remove_secrets, secrets_in, secrets_of

#: Letters of which nothing else here is made, around what hypothesis thinks of.
MARK = "geheim"
ODD = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: MARK + text + MARK)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://me:secret@host/0", "redis://me:***@host/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("rediss://me:a/b@c?d#e%f@[::1]:6379/0", "rediss://me:***@[::1]:6379/0"),
        ("redis://secret@host/0", "redis://***@host/0"),
        ("redis://me:secret", "redis://***"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***"),
        ("redis://host/0#secret", "redis://host/0#***"),
        ("s3://key:secret@bucket/prefix?region=x", "s3://key:***@bucket/prefix?region=x"),
        ("s3://bucket/prefix?region=x&access_key=a&secret_key=b", "s3://bucket/prefix?region=x&access_key=***"),
        ("s3://bucket/prefix?scheme=http&session_token=a&b", "s3://bucket/prefix?scheme=http&session_token=***"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("file:///results/a@b", "file:///results/a@b"),
        ("", ""),
    ],
)
def test_what_is_secret_in_a_url_is_masked(url: str, shown: str) -> None:
    """Everything else of the URL stays."""
    assert mask_url(url) == shown


@given(ODD)
def test_no_password_is_shown_quoted_or_not(password: str) -> None:
    """Wherever people put it."""
    for written in (password, quote(password), quote(password, safe="")):
        places = [f"redis://:{written}@host:6379/0", f"redis://me:{written}@host", f":{written}@h"]
        places += [f"redis://host/0?password={written}", f"s3://b/p?region=x&secret_key={written}&scheme=http"]
        places += [f"s3://KEY:{written}@bucket/prefix"]
        if "@" not in written:  # without a host nobody could tell what stands behind it
            places.append(f"redis://me:{written}")
        for url in places:
            assert MARK not in mask_url(url)


@given(ODD)
def test_a_text_loses_a_password_however_it_is_spelled(password: str) -> None:
    """As written, decoded, encoded in either case, between quotes of Python or of JSON, or in a whole URL."""
    for written in (password, quote(password, safe="")):
        url = f"redis://me:{written}@host:6379/0"
        decoded = unquote(written)
        spellings = [written, decoded, quote(decoded), quote_plus(decoded), repr(written), repr(decoded)]
        spellings += [re.sub("%..", lambda found: found[0].lower(), quote(decoded, safe="")), json.dumps(decoded), url]
        for text in spellings:
            assert MARK not in hide(f"it says {text} here", url)


def test_a_secret_of_few_letters_is_removed_where_it_stands_alone() -> None:
    """Within words it says nothing, and nobody could read what would be left of them."""
    assert hide("password: s; host: some.host", "redis://:s@some.host") == "password: ***; host: some.host"


def test_passwords_of_foreign_urls_are_removed_too() -> None:
    """What a library logs of its own connections."""
    assert remove_secrets("cannot connect to amqp://me:a@b:c@host// now", []) == "cannot connect to amqp://me:***@host// now"


def test_what_a_server_repeats_of_a_command_is_removed() -> None:
    """Old servers do so with AUTH, and cut it at some length, so that it is not the password any more."""
    text = "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `me`, `gehe"
    assert remove_secrets(text, ["geheim"]) == "unknown command `HELLO`, with args beginning with: ***"


def test_secrets_of_object_stores_come_from_the_environment() -> None:
    """Those that Arrow reads."""
    assert secrets_in({"AWS_SECRET_ACCESS_KEY": "a", "AWS_SESSION_TOKEN": "b", "HOME": "c"}) == ["a", "b"]


def test_a_url_without_secrets_has_none() -> None:
    assert secrets_of("redis://host:6379/0") == secrets_of("file:///a:b@c") == secrets_of("s3://bucket/p?region=x") == []
