"""TLS to the server: what is asked of its certificate, and what to say when a handshake fails.

At least TLS 1.2, the certificate must come from a known authority and be for the host that the URL names. Files are
read when a handle is made, so that a wrong one is an error at the start and not the end of every connection.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Any, Final

from stem.config import TLSConfig
from stem.errors import ConfigError
from stem.text import clean

log = logging.getLogger("stem.tls")

_warned: set[str] = set()


def options_of(tls: TLSConfig) -> dict[str, Any]:
    """Return what the client library is to be given."""
    return {
        "ssl_ca_certs": tls.ca_cert,
        "ssl_certfile": tls.client_cert,
        "ssl_keyfile": tls.client_key,
        "ssl_cert_reqs": "none" if tls.allow_insecure else "required",
        "ssl_check_hostname": not tls.allow_insecure,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def check(tls: TLSConfig, *, where: str) -> None:
    """Read the files, and warn once for each server whose certificate is not checked.

    Raises:
        ConfigError: a file cannot be read, is no certificate or key, or the two do not belong together.
    """
    if tls.client_key and not tls.client_cert:
        raise ConfigError("STEM_TLS_CLIENT_KEY is set, but STEM_TLS_CLIENT_CERT is not: set both")
    for name, path in (
        ("STEM_TLS_CA_CERT", tls.ca_cert),
        ("STEM_TLS_CLIENT_CERT", tls.client_cert),
        ("STEM_TLS_CLIENT_KEY", tls.client_key),
    ):
        if path is not None:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ConfigError(f"{name}: {clean(path, 200)} cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_cert is not None:
        try:
            context.load_verify_locations(cafile=tls.ca_cert)
        except ssl.SSLError:
            raise ConfigError(
                f"STEM_TLS_CA_CERT: {clean(tls.ca_cert, 200)} holds no certificate: give a file in PEM form"
            ) from None
    if tls.client_cert is not None:
        try:
            # Without a password for the key: OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.client_cert, tls.client_key, password="")
        except ssl.SSLError as error:
            mismatch = "KEY_VALUES_MISMATCH" in str(error)
            why = "the key does not belong to the certificate" if mismatch else "certificate and key are not both there"
            raise ConfigError(
                f"STEM_TLS_CLIENT_CERT: {clean(tls.client_cert, 200)} cannot be used: {why}. Give both in PEM form, "
                "the key without a password, in one file or with STEM_TLS_CLIENT_KEY"
            ) from None
    if tls.allow_insecure and where not in _warned:
        _warned.add(where)
        log.warning(
            "tls.unverified",
            extra={
                "broker": where,
                "hint": "STEM_TLS_ALLOW_INSECURE is set: anybody on the way can read and change everything",
                "pid": os.getpid(),
            },
        )


_CAUSES: Final = (
    ("certificate required", "the server asks for a client certificate: set STEM_TLS_CLIENT_CERT and _KEY"),
    ("CERTIFICATE_REQUIRED", "the server asks for a client certificate: set STEM_TLS_CLIENT_CERT and _KEY"),
    ("certificate has expired", "the server's certificate has expired: renew it there"),
    ("Hostname mismatch", "the server's certificate is for another host: use the name that it is for in the URL"),
    ("IP address mismatch", "the server's certificate is for another host: use the name that it is for in the URL"),
    ("CERTIFICATE_VERIFY_FAILED", "nobody known here has signed the server's certificate: set STEM_TLS_CA_CERT"),
    ("unknown ca", "the server does not know who signed STEM_TLS_CLIENT_CERT: use one of its authority's"),
    ("UNKNOWN_CA", "the server does not know who signed STEM_TLS_CLIENT_CERT: use one of its authority's"),
    ("certificate expired", "STEM_TLS_CLIENT_CERT has expired: renew it"),
    ("CERTIFICATE_EXPIRED", "STEM_TLS_CLIENT_CERT has expired: renew it"),
    ("bad certificate", "the server does not accept STEM_TLS_CLIENT_CERT: its log may say why"),
    ("BAD_CERTIFICATE", "the server does not accept STEM_TLS_CLIENT_CERT: its log may say why"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS on this port: use redis://, or its TLS port"),
    ("RECORD_LAYER_FAILURE", "it does not speak TLS on this port: use redis://, or its TLS port"),
    (
        "Timeout connecting",
        "the TLS handshake got no answer: is there no TLS on this port? Then use redis://",
    ),
    ("PROTOCOL_VERSION", "it speaks no TLS version from 1.2 on: update it"),
)


def suspicion(tls: TLSConfig | None) -> str:
    """Return what a connection that was cut off may mean: a server that refuses a certificate says so and hangs up, and
    what it said may be lost with the connection (TLS 1.3 has let the client in by then)."""
    if tls is None:
        return ". If it is so each time, and the server speaks TLS on this port: write rediss:// in the URL"
    if tls.client_cert is None:
        return ". If it is so each time: the server asks for a client certificate, set STEM_TLS_CLIENT_CERT and _KEY"
    return ". If it is so each time: the server does not accept STEM_TLS_CLIENT_CERT, its log says why"


def cause_of(text: str) -> str:
    """Return what a failed handshake means and what to do; empty if this text is of no handshake."""
    return next((cause for mark, cause in _CAUSES if mark in text), "")
