"""X.509 as certificates say it: parsed from PEM, or taken from a TLS handshake. Of a key only whether it fits is said.

What a certificate's days mean is in domain/certificates.py.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from stackwright.domain.errors import StackError
from stackwright.domain.preflight.seen import PairSeen

HANDSHAKE_S = 10.0
BEGIN = "-----BEGIN CERTIFICATE-----"


class CertificateUnreadableError(StackError):
    """What should be a certificate cannot be read, or an address serves none."""


@dataclass(frozen=True)
class Certificate:
    """What a certificate says of itself; times in seconds since the epoch, `sha256` is its fingerprint."""

    subject: str
    not_before_s: float
    not_after_s: float
    is_ca: bool
    sha256: str = ""


def parse_pem(text: str, where: str) -> list[Certificate]:
    """Return the certificates of a PEM text, in order. Raises CertificateUnreadableError for none or a broken one."""
    try:
        found = x509.load_pem_x509_certificates(text.encode()) if BEGIN in text else []
    except ValueError as error:
        # The parser's words would quote the text.
        raise CertificateUnreadableError("not a certificate", where=where, seen=type(error).__name__) from None
    if not found:
        raise CertificateUnreadableError(
            "no certificate in it", where=where, wanted=BEGIN, seen=f"{len(text)} characters"
        )
    return [_read(certificate) for certificate in found]


def served(host: str, port: int, name: str, timeout_s: float = HANDSHAKE_S) -> Certificate:
    """Return the certificate that an address serves for a name, whether it can be trusted or not.

    Raises CertificateUnreadableError when nothing answers or no handshake succeeds.
    """
    where = f"{name}:{port}"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # one that has expired is what we look for; nothing is sent over this link
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_s) as link,
            context.wrap_socket(link, server_hostname=name) as tls,
        ):
            data = tls.getpeercert(binary_form=True)
    except OSError as error:
        seen = error.strerror or type(error).__name__
        raise CertificateUnreadableError("no TLS handshake", where=where, wanted="a certificate", seen=seen) from error
    if not data:
        raise CertificateUnreadableError("no certificate was served", where=where)
    try:
        return _read(x509.load_der_x509_certificate(data))
    except ValueError as error:
        raise CertificateUnreadableError("not a certificate", where=where, seen=type(error).__name__) from error


def _read(found: x509.Certificate) -> Certificate:
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_ca = constraints.ca
    except x509.ExtensionNotFound:
        is_ca = False
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    subject = str(names[0].value) if names else found.subject.rfc4514_string()
    since, until = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Certificate(subject, since, until, is_ca, found.fingerprint(hashes.SHA256()).hex())


def inspect_pair(certificate: str, key: str) -> PairSeen:
    """Return what a certificate (with its chain) and a key say of each other. Nothing of the key is in the result."""
    try:
        found = x509.load_pem_x509_certificates(certificate.encode())
    except ValueError as error:
        return PairSeen(error=f"the certificate is not PEM ({type(error).__name__})")
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return PairSeen(error=f"the key cannot be read ({type(error).__name__})")
    first = found[0]
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    seen = _read(first)
    return PairSeen(
        subject=seen.subject,
        names=_dns_names(first),
        is_ca=seen.is_ca,
        not_before_s=max(_read(one).not_before_s for one in found),
        not_after_s=min(_read(one).not_after_s for one in found),
        key_fits=private.public_key().public_bytes(*form) == first.public_key().public_bytes(*form),
        chain_ok=all(_signed(one, by) for one, by in pairwise(found)),
    )


def _signed(one: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _dns_names(found: x509.Certificate) -> tuple[str, ...]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))
