"""Passwords in addresses: taken out before anything shows, stores or sends them.

An address keeps working without its password: what was taken out stays in this process's environment, which the
processes that it starts inherit. Later processes (`fourstage sync`) read MLflow's own variables
(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN) or the database's (PGPASSWORD).

    keep("http://me:secret@host")        # "http://host"
    masked("cannot reach http://me:secret@host/x?token=1")   # "cannot reach http://host/x"
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from fourstage.stages import UserError

KEPT = "FOURSTAGE_CREDENTIALS"  # address without credentials → with them, as JSON
LEAST_CHARS = 4  # of a secret that is looked for in texts: a shorter one would garble them
FREE_TEXT = ("prompt", "dataset.question")  # what the model is asked is not changed
STORES = ("tracking.uri", "uri")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s\"'<>`/][^\s\"'<>`]*")  # a path keeps one of two slashes
_SWEPT = re.compile(r",(?=[A-Za-z][\w+.-]*://)")  # between the addresses of a sweep over several
_SECRET = re.compile(
    r"(?i)^[\w.-]*(token|passw(or)?d|passphrase|pwd|secret|api[_-]?key|access[_-]?key|credential|signature|^sig$|^auth$)[\w.-]*$"
)


def masked(text: str) -> str:
    """The text without the passwords of the addresses in it."""
    for bare, full in _kept().items():
        text = text.replace(full, bare)
    return _URL.sub(_masked_url, text) if ":/" in text else text


def masked_error(text: str) -> str:
    """`masked`, and without the passwords of this process where they stand alone, as a database's driver shows them."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    return masked(text)


def masked_tree(value: Any) -> Any:
    """`masked` for every text in nested lists and mappings."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_tree(item) for key, item in value.items()}
    return [masked_tree(item) for item in value] if isinstance(value, list | tuple) else value


def keep(uri: str) -> str:
    """The address of a store without its credentials, which are kept for `complete`.

    Raises UserError where MLflow has no way to use them.
    """
    bare, user, password, query = _split(uri)
    if bare == uri:
        return uri
    if uri.lower().startswith(("http://", "https://")):
        if query or password is None:
            raise UserError(
                f"tracking.uri={bare}: MLflow takes no token in a server's address; "
                "give it as the environment variable MLFLOW_TRACKING_TOKEN"
            )
        full = f"{bare.partition('://')[0]}://{_quoted(user)}:{_quoted(password)}@{bare.partition('://')[2]}"
    else:
        full = _with_password(bare, user, password, query)
    os.environ[KEPT] = json.dumps(_kept() | {bare: full})
    return bare


def complete(uri: str) -> str:
    """The address of a database with the credentials that were kept; a server's are MLflow's variables (`login`)."""
    return uri if uri.startswith("http") else _kept().get(uri, uri)


def login(uri: str) -> tuple[str, str] | None:
    """User and password that were kept for a server."""
    full = _kept().get(uri)
    if full is None or not uri.startswith("http"):
        return None
    user, _, password = full.partition("://")[2].rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def variables(uri: str) -> str:
    """Which environment variables another process needs for what was taken out of this address; "" where nothing."""
    if uri not in _kept():
        return ""
    if uri.startswith("http"):
        return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return "PGPASSWORD" if uri.startswith("postgresql") else "the database's password"


def take_out(argv: Sequence[str]) -> list[str]:
    """The words of a command line without credentials: Hydra writes them down, and launchers send them on."""
    return [_bare_word(word) for word in argv]


def _masked_url(match: re.Match[str]) -> str:
    found = match[0]
    if "://" in found[: found.index("/") + 2]:
        return _split(found)[0]
    return _split(found.replace(":/", "://", 1))[0].replace("://", ":/", 1)


def _bare_word(word: str) -> str:
    key, equals, value = word.partition("=")
    name = key.lstrip("+~")
    if not equals or "://" not in value or name in FREE_TEXT:
        return word
    if name not in STORES:
        return f"{key}={masked(value)}"
    quotes = value[0] if value[:1] in ("'", '"') and value[-1] == value[0] and len(value) > 1 else ""
    inner = value[1:-1] if quotes else value
    bare = ",".join(keep(uri) for uri in _SWEPT.split(inner))
    return f"{key}={quotes}{bare}{quotes}"


def _split(uri: str) -> tuple[str, str, str | None, str]:
    """The address without credentials; user, password and the secret part of the query that were in it."""
    scheme, separator, rest = uri.partition("://")
    userinfo, rest = _userinfo(rest)
    user, colon, password = userinfo.partition(":")
    rest, mark, query = rest.partition("?")
    fields = query.split("&") if mark else []
    secret = [field for field in fields if _SECRET.match(unquote(field.partition("=")[0]))]
    plain = [field for field in fields if field not in secret]
    web = scheme.lower() in ("http", "https", "ftp", "ws", "wss")
    shown = f"{user}@" if user and not web else ""
    bare = f"{scheme}{separator}{shown}{rest}" + (f"?{'&'.join(plain)}" if plain else mark if not secret else "")
    return bare, user, password if colon else None, "&".join(secret)


def _userinfo(rest: str) -> tuple[str, str]:
    """User and password before the host. A password may hold @ : / ? # as it was typed, so it ends at the last @ that
    a query does not hold; a path with an @ after a password is rarer, and nothing may be shown of a password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, colon, _ = rest.partition(":")
    if not colon or re.search(r"[/?#@]", user) or ("@" not in authority and re.fullmatch(r"[^:]*:\d*", authority)):
        end = authority.rfind("@")  # no password: a user alone, or a host and its port
    else:
        end = rest.partition("?")[0].rfind("@")
        end = rest.rfind("@") if end < 0 else end
    return (rest[:end], rest[end + 1 :]) if end >= 0 else ("", rest)


def _with_password(bare: str, user: str, password: str | None, query: str) -> str:
    scheme, _, rest = bare.partition("://")
    rest = rest.removeprefix(f"{user}@")
    before = "" if not user and password is None else _quoted(user)
    before += "" if password is None else f":{_quoted(password)}"
    more = "" if not query else f"{'&' if '?' in rest else '?'}{query}"
    return f"{scheme}://{before}{'@' if before else ''}{rest}{more}"


def _quoted(text: str) -> str:
    return quote(text, safe="%!$&'()*+,;=-._~")


def _kept() -> dict[str, str]:
    found: dict[str, str] = json.loads(os.environ.get(KEPT, "{}"))
    return found


def _secrets() -> list[str]:
    """The secrets of this process as they are written and as they are meant; longer ones first."""
    found = set[str]()
    for full in _kept().values():
        _, _, password, query = _split(full)
        for secret in [password or "", *(field.partition("=")[2] for field in query.split("&"))]:
            found |= {secret, unquote(secret)}
    return sorted((secret for secret in found if len(secret) >= LEAST_CHARS), key=len, reverse=True)
