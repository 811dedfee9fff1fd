"""Why a TLS connection was refused, in words: OpenSSL's own words name the fault and neither the cause nor the next step."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

#: OpenSSL's codes of what is wrong with a server's certificate (x509_vfy.h), and what that means.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)
#: OpenSSL's reasons where what comes is no TLS; they depend on its version.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_CONNECT_SECONDS, _LISTEN_SECONDS = 5.0, 1.0


def explain_tls(error: BaseException, url: str, options: Mapping[str, Any]) -> str | None:
    """What was wrong with a certificate and what to do; None where an error has another cause.

    A server that does not like a client's certificate says so only after the client takes the connection for made (TLS
    1.3). Whether the client still gets to read that is chance: where it does not, it is asked again.
    """
    causes = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    found = next((cause for cause in causes if isinstance(cause, ssl.SSLError) and _says_why(cause)), None)
    if found is None and options and any(not isinstance(cause, ConnectionRefusedError) for cause in causes):
        found = _ask_again(url, options)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _explain_verification(found)
    return _explain_alert(found)


def _ask_again(url: str, options: Mapping[str, Any]) -> ssl.SSLError | None:
    """Connect and only listen: a server that is content says nothing."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or 6379
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options["ssl_keyfile"])
    try:
        with socket.create_connection((host, port), _CONNECT_SECONDS) as plain:
            plain.settimeout(_LISTEN_SECONDS)
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                encrypted.recv(1)
    except ssl.SSLError as error:
        return error if _says_why(error) else None
    except OSError:
        pass
    return None


def _says_why(error: ssl.SSLError) -> bool:
    """Whether this is about certificates or a server without TLS; a connection that ends, as in an outage, is neither."""
    reason = error.reason or ""
    return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in reason or reason in _NO_TLS


def _explain_verification(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        when = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"the certificate of the server {when}: renew it, or set the clock of this machine"
    if error.verify_code in _OTHER_NAMES:
        return (
            f"the certificate of the server is for another name ({error.verify_message}): write the name it is for in "
            "FITQ_REDIS_URL, or have one made for this name"
        )
    return (
        f"the certificate of the server is signed by an authority that is not trusted ({error.verify_message}): set "
        "FITQ_TLS_CA to the certificate of that authority"
    )


def _explain_alert(error: ssl.SSLError) -> str:
    """What the server did not like, which it says with an alert."""
    reason = (error.reason or str(error)).upper()
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            "the server asks for a client certificate, and none was given: set FITQ_TLS_CERTIFICATE and FITQ_TLS_KEY "
            f"({error.reason})"
        )
    if "EXPIRED" in reason:
        return f"the server says that the certificate of FITQ_TLS_CERTIFICATE has expired: renew it ({error.reason})"
    if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason:
        return (
            "the server does not accept the certificate of FITQ_TLS_CERTIFICATE: have it signed by the authority that the "
            f"server trusts ({error.reason})"
        )
    return f"no TLS connection comes about: does the server speak TLS at this port? ({error.reason})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it; kombu makes rings of them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
