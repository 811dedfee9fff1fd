"""TLS to the server: the certificates of settings, as the Redis client and Celery's broker take them."""

from __future__ import annotations

from typing import Any

from fitq_shared.errors import SettingsError


def tls_options(ca: str, certificate: str, key: str) -> dict[str, Any]:
    """Options of a TLS connection with these PEM files, each of which may be empty; the host's name is always verified.

    Raises:
        SettingsError: a file cannot be read, is none of its kind, or the key is that of another certificate.
    """
    _check_authority(ca)
    _check_certificate(certificate, key)
    files = {"ssl_ca_certs": ca, "ssl_certfile": certificate, "ssl_keyfile": key}
    given = {name: path for name, path in files.items() if path}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **given}


def _check_authority(ca: str) -> None:
    if not ca:
        return
    import ssl

    try:
        ssl.create_default_context(cafile=ca)
    except OSError as error:  # those of ssl among them
        raise SettingsError(f"FITQ_TLS_CA={ca}: no certificates of an authority can be read there ({error})") from None


def _check_certificate(certificate: str, key: str) -> None:
    if not certificate:
        return
    import ssl

    try:
        ssl.create_default_context().load_cert_chain(certificate, key, password=_no_passphrase)
    except OSError as error:
        raise SettingsError(
            f"FITQ_TLS_CERTIFICATE={certificate} and FITQ_TLS_KEY={key} cannot be read or do not belong together ({error})"
        ) from None


def _no_passphrase() -> str:
    raise SettingsError(
        "FITQ_TLS_KEY has a passphrase, which no worker could type: give a key without one, readable by its user"
    )
