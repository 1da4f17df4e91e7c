"""Why there is no connection to the broker: one stable code and one line for each cause that a person can act on.

    nothing there     name-resolution, refused, unreachable, timeout, connection-failed
    its certificate   wrong-host, certificate-expired, certificate-not-yet-valid, certificate-revoked, untrusted-ca,
                      crl-missing, crl-expired, bad-certificate, not-tls
    our certificate   client-certificate-expired, client-certificate-not-yet-valid, client-certificate-revoked,
                      client-certificate-unknown-ca, client-certificate-missing, client-certificate-refused,
                      credentials (a file of ours cannot be used)
    it said no        refused-auth, refused-protocol, refused-client-id, refused-by-broker, refused-publish,
                      refused-quota, broker-busy
    it ended          closed, closed-before-answer, silent, taken-over, broker-stopping, packet-too-large,
                      protocol-error
    we left           renewed-certificate

The codes are counted in the device's vitals.
"""

from __future__ import annotations

import errno
import socket
import ssl

from edge_inspect.errors import BrokerGone

_OUR_CERTIFICATE = {
    "CERTIFICATE_EXPIRED": ("client-certificate-expired", "our certificate has expired"),
    "CERTIFICATE_REVOKED": ("client-certificate-revoked", "our certificate has been revoked"),
    "UNKNOWN_CA": ("client-certificate-unknown-ca", "our certificate is from a CA that the broker does not trust"),
    "CERTIFICATE_REQUIRED": ("client-certificate-missing", "the broker wants a certificate of ours"),
}
_ABOUT_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "DECRYPT_ERROR", "ACCESS_DENIED")
NOT_TLS = "no TLS is spoken there (mqtts needs the broker's TLS port)"
_VERIFY = {
    9: ("certificate-not-yet-valid", "the broker's certificate is not valid yet; is this box's clock right?"),
    10: ("certificate-expired", "the broker's certificate has expired"),
    3: ("crl-missing", "no revocation list for the broker's certificate among our CA files"),
    12: ("crl-expired", "the revocation list beside our CA has expired"),
    23: ("certificate-revoked", "the broker's certificate has been revoked"),
    18: ("untrusted-ca", "the broker's certificate is self-signed and not the given CA"),
    19: ("untrusted-ca", "the broker's certificate chain ends in a CA that is not trusted here"),
    20: ("untrusted-ca", "the broker's certificate was not signed by the given CA"),
    21: ("untrusted-ca", "the broker's certificate was not signed by the given CA"),
    62: ("wrong-host", "the broker's certificate is for another host name"),
    64: ("wrong-host", "the broker's certificate is for another address"),
}
_REFUSED = {
    0x84: ("refused-protocol", "the broker does not speak this MQTT version; try the other one (5 or 3.1.1)"),
    0x85: ("refused-client-id", "the broker does not accept our client id"),
    0x86: ("refused-auth", "the broker refused user name or password"),
    0x87: ("refused-auth", "the broker says we are not authorised"),
    0x89: ("broker-busy", "the broker is busy"),
    0x8A: ("refused-auth", "the broker has banned us"),
    0x97: ("refused-quota", "the broker says our quota is used up"),
    0x9F: ("refused-quota", "the broker says we connect too often"),
    0x8C: ("refused-auth", "the broker wants another authentication method"),
}
_ENDED = {
    0x87: ("refused-auth", "the broker says we are not authorised any more"),
    0x8B: ("broker-stopping", "the broker is stopping"),
    0x89: ("broker-busy", "the broker is busy"),
    0x96: ("refused-quota", "the broker says we send too much"),
    0x97: ("refused-quota", "the broker says our quota is used up"),
    0x98: ("refused-by-broker", "the broker's administrator ended the connection"),
    0x9F: ("refused-quota", "the broker says we connect too often"),
    0x8D: ("silent", "the broker heard nothing from us for too long"),
    0x8E: ("taken-over", "another client connected with our name: two devices with one name?"),
    0x95: ("packet-too-large", "the broker refuses packets of this size"),
}


class LinkLost(BrokerGone):
    """There is no connection to the broker (any more). `code` is stable and meant for counting."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


def from_exception(err: Exception, where: str) -> LinkLost:
    """What kept us from connecting to `where` (host:port)."""
    if isinstance(err, LinkLost):
        return err
    if isinstance(err, ssl.SSLCertVerificationError):
        code, why = _VERIFY.get(err.verify_code, ("bad-certificate", f"the broker's certificate: {err.verify_message}"))
    elif isinstance(err, ssl.SSLError):
        code, why = from_tls_text(str(err))
    elif isinstance(err, socket.gaierror):
        code, why = "name-resolution", f"the name cannot be resolved: {err.strerror}"
    elif isinstance(err, ConnectionRefusedError):
        code, why = "refused", "nobody listens there"
    elif isinstance(err, ConnectionResetError):  # before any MQTT was spoken: in the TLS handshake
        code, why = "not-tls", NOT_TLS
    elif isinstance(err, TimeoutError):
        code, why = "timeout", "no answer in time"
    elif isinstance(err, OSError) and err.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
        code, why = "unreachable", "no way to that network"
    else:
        code, why = "connection-failed", str(err) or type(err).__name__
    return LinkLost(code, f"{where}: {why}")


def from_tls_text(text: str) -> tuple[str, str]:
    """Code and line for what OpenSSL says; it names its causes only in words."""
    for word, known in _OUR_CERTIFICATE.items():
        if f"ALERT_{word}" in text:
            return known
    if "ALERT" in text and any(word in text for word in _ABOUT_OUR_CERTIFICATE):
        return "client-certificate-refused", f"the broker did not accept our certificate: {_openssl_words(text)}"
    if any(word in text for word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "EOF occurred")):
        return "not-tls", NOT_TLS
    return "bad-certificate", f"no TLS connection: {_openssl_words(text)}"


def from_connack(code: int, name: str, where: str) -> LinkLost:
    """The broker answered our CONNECT with no."""
    stable, why = _REFUSED.get(code, ("refused-by-broker", f"the broker refused us: {name}"))
    return LinkLost(stable, f"{where}: {why}")


def from_puback(code: int, name: str, where: str) -> LinkLost:
    """The broker did not take a report, for a reason that holds for the next one too."""
    if code == 0x97:
        return LinkLost("refused-quota", f"{where}: the broker says our quota is used up")
    return LinkLost("refused-publish", f"{where}: the broker refused a report: {name}")


def from_disconnect(code: int | None, name: str, last_error: str, accepted: bool, where: str) -> LinkLost:
    """A connection ended; `code` is the broker's own (MQTT 5), `last_error` what the socket said last."""
    if code is not None:
        stable, why = _ENDED.get(code, ("protocol-error", f"the broker ended the connection: {name}"))
    elif f"[Errno {errno.ETIMEDOUT}]" in last_error:
        stable, why = "silent", "what we sent was not taken for too long"
    elif "SSL:" in last_error:
        stable, why = from_tls_text(last_error)
    elif not accepted:
        stable, why = "closed-before-answer", "closed without an answer: does this port speak TLS or another protocol?"
    else:
        stable, why = "closed", f"the connection ended{': ' + last_error if last_error else ''}"
    return LinkLost(stable, f"{where}: {why}")


def _openssl_words(text: str) -> str:
    """`[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)` without the frame."""
    return text.rpartition("] ")[2].partition(" (_ssl")[0]
