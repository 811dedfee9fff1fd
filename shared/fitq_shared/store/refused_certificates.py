"""Why a TLS connection was refused, in words: OpenSSL's own name the fault and neither the cause nor the next step."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

#: OpenSSL's codes of what is wrong with a server's certificate (x509_vfy.h), and what that means.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)


def explain_tls(error: BaseException) -> str | None:
    """What was wrong with a certificate and what to do; None where an error has another cause."""
    found = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return _explain_verification(found)
    return _explain_alert(found)


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
