"""Secrets stay out of messages and logs: URLs are shown without them, and texts of others lose them.

A password may have any character, quoted or not. So nothing here relies on a URL being well formed: what could be part of a
secret is not shown, even where that hides a harmless part too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
#: Parameters in the query of a URL whose values are no secrets. Those of any other name are hidden.
SHOWN_PARAMETERS = frozenset(
    [
        *("region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"),
        *("force_virtual_addressing", "smart_defaults", "retry_limit_seconds", "enable_tls"),
        *("blob_storage_authority", "dfs_storage_authority", "blob_storage_scheme", "dfs_storage_scheme"),
    ]
)
#: Variables from which Arrow takes secrets of object stores.
SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET")
#: A shorter secret is part of too many words: it is removed where it stands alone.
_SHORT = 4

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_USER = re.compile(r"[\w.+-]*")
_HOST = re.compile(r"(?:[\w.-]*|\[[0-9A-Fa-f:.]*\])(?::\d*)?")
_PLACE = re.compile(r"([^/?#]*)([^?#]*)(.*)", re.DOTALL)
#: User and password of any URL in a text.
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[\w.+-]*):\S*@")
#: What a server repeats of a command that it does not know, AUTH included, cut at some length.
_ARGUMENTS = re.compile(r"(with args beginning with:).*", re.DOTALL)


def mask_url(url: str) -> str:
    """`url` with `***` in place of passwords and keys, fit for messages and logs."""
    scheme, credentials, place = _split(url)
    if scheme == "file://":
        return url
    user, colon, _ = (credentials or "").partition(":")
    shown = f"{user}:{MASK}@" if colon and _USER.fullmatch(user) else f"{MASK}@"
    login = "" if credentials is None else shown
    host, path, query = _place(place)
    return f"{scheme}{login}{host if _HOST.fullmatch(host) else MASK}{path}{_mask_query(query)}"


def secrets_of(url: str) -> list[str]:
    """What `mask_url` hides of a URL, as written there."""
    scheme, credentials, place = _split(url)
    if scheme == "file://":
        return []
    user, colon, password = (credentials or "").partition(":")
    host, _, query = _place(place)
    found = [password if colon else user]
    found += [] if _HOST.fullmatch(host) else [host, host.partition(":")[2]]
    for parameters in (query, "?" + url.partition("?")[2]):  # an `@` in the query looks like the end of a password
        found += [value for name, value in _parameters(parameters) if name not in SHOWN_PARAMETERS]
    return [secret for secret in found if secret]


def hidden_parameters(url: str) -> list[str]:
    """Names of the parameters of a URL whose values `mask_url` hides; empty for what has no name."""
    _, _, place = _split(url)
    return [name for name, _ in _parameters(_place(place)[2]) if name not in SHOWN_PARAMETERS]


def secrets_in(environment: Mapping[str, str] | None = None) -> list[str]:
    """Secrets of object stores in the environment, by default that of this process."""
    environment = os.environ if environment is None else environment
    return [secret for name in SECRET_VARIABLES if (secret := environment.get(name))]


def remove_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` without these secrets, however they are quoted or escaped, and without the password of any URL in it."""
    pattern = _pattern(tuple(sorted(set(secrets))))
    text = text if pattern is None else pattern.sub(MASK, text)
    return _ARGUMENTS.sub(rf"\1 {MASK}", _CREDENTIALS.sub(rf"\1:{MASK}@", text))


def hide(text: object, url: str) -> str:
    """What somebody else wrote about `url`, such as an error's text, without its secrets and those of the environment."""
    return remove_secrets(str(text), [*secrets_of(url), *secrets_in()])


def _split(url: str) -> tuple[str, str | None, str]:
    """Scheme with its `://`, user and password where there are any, and the rest. The last `@` is the one that counts."""
    scheme, separator, rest = url.partition("://")
    if not (separator and _SCHEME.fullmatch(scheme)):
        scheme, separator, rest = "", "", url
    credentials, at, place = rest.rpartition("@")
    return scheme + separator, credentials if at else None, place


def _place(place: str) -> tuple[str, str, str]:
    """Host with its port, path, and the rest from `?` or `#` on."""
    found = _PLACE.fullmatch(place)
    assert found is not None  # it matches every text
    host, path, query = found.groups()
    return host, path, query


def _mask_query(query: str) -> str:
    """A query up to its first parameter that is not shown: what comes after it may belong to its value."""
    shown = []
    for name, value in _parameters(query):
        if name not in SHOWN_PARAMETERS:
            shown.append(f"{name}={MASK}" if _USER.fullmatch(name) and name else MASK)
            break
        shown.append(f"{name}={value}")
    return query[:1] + "&".join(shown)


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    """Names and values as they stand in a query; from the first that is not shown on, the value is all that follows."""
    rest = query[1:]
    if not query.startswith("?"):
        yield from [("", rest)] if query else []
        return
    while rest:
        name, equals, value = rest.partition("=")
        if name not in SHOWN_PARAMETERS or not equals:
            yield (name, value) if equals else ("", rest)
            return
        value, _, rest = value.partition("&")
        if "#" in value:
            yield "", f"{name}={value}&{rest}"
            return
        yield name, value


@lru_cache
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """An expression for every spelling of the secrets, longest first."""
    spellings = {spelling for secret in secrets for spelling in _spellings(secret)} - {""}
    if not spellings:
        return None
    alone = [rf"(?<!\w){re.escape(text)}(?!\w)" if len(text) < _SHORT else re.escape(text) for text in spellings]
    return re.compile("|".join(sorted(alone, key=len, reverse=True)))


def _spellings(secret: str) -> set[str]:
    """A secret as written, decoded, percent-encoded, and as Python and JSON write it between quotes."""
    decoded = {secret, unquote(secret), unquote_plus(secret), secret.partition("&")[0]}
    encoded = {encode(text) for text in decoded for encode in (_quote_all, _quote_most, quote_plus)}
    lower = {re.sub("%..", lambda found: found[0].lower(), text) for text in encoded}
    every = decoded | encoded | lower
    return every | {repr(text)[1:-1] for text in every} | {json.dumps(text)[1:-1] for text in every}


def _quote_all(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _quote_most(text: str) -> str:
    return quote(text, errors="replace")
