"""A lab's place on the loopback interface: addresses of its own, its certificate authority, and server certificates."""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackwright.domain.errors import ToolError

YEAR = datetime.timedelta(days=365)
PER_BLOCK = 250  # addresses of a /24 that a lab uses


class Authority:
    """A certificate authority with its key. `certificate` and `key` are PEM text."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign_itself(name)
        self.certificate = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.key = pem_key(self._key)

    @classmethod
    def load(cls, certificate: str, key: str) -> Authority:
        """Return the authority that was saved as PEM text."""
        loaded = serialization.load_pem_private_key(key.encode(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError("the lab's authorities have EC keys")
        authority = cls.__new__(cls)
        authority._key, authority.key = loaded, key
        authority._certificate, authority.certificate = (
            x509.load_pem_x509_certificate(certificate.encode()),
            certificate,
        )
        return authority

    def _sign_itself(self, name: str) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + 10 * YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self, common_name: str, names: Iterable[str] = (), organization: str = "", days: float = 365
    ) -> tuple[str, str]:
        """Sign a certificate for DNS names and addresses; return (certificate with this CA appended, key) as PEM.

        With negative `days` it has expired that long ago.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        until = now + datetime.timedelta(days=days)
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organization:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, until) - datetime.timedelta(hours=1))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        alternatives = [_alternative(name) for name in names]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        return certificate + self.certificate, pem_key(key)

    def server_context(self, common_name: str, names: Iterable[str], *, client_ca: str | None = None) -> ssl.SSLContext:
        """Make a server's TLS context; with `client_ca`, client certificates are asked for and checked against it."""
        context = context_of(*self.issue(common_name, names))
        if client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=client_ca)
        return context


def pem_key(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a private key as unencrypted PEM."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def context_of(certificate: str, key: str) -> ssl.SSLContext:
    """Make a server's TLS context from PEM text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_text(key + certificate)
        context.load_cert_chain(pair)
    return context


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class LabNet:
    """Addresses of 127.0.0.0/8 that no other lab of this user has, held by a file lock for the life of this object.

    `prefix` is the /24 of the first ones; a large lab goes on in the same third byte of 127.78, 127.79 ...
    """

    def __init__(self, prefix: str, lock: IO[str], folder: Path) -> None:
        self.prefix = prefix
        self._lock = lock
        self.ca_file = folder / "ca.pem"
        key_file = folder / "ca.key"
        if self.ca_file.exists() and key_file.exists():
            self.ca = Authority.load(self.ca_file.read_text(), key_file.read_text())
        else:
            self.ca = Authority("Stackwright lab CA")
            key_file.touch(mode=0o600)
            key_file.write_text(self.ca.key)
            self.ca_file.write_text(self.ca.certificate)

    @classmethod
    def allocate(cls, folder: Path) -> LabNet:
        """Take the network that this folder's lab had, or the first free one. Raises ToolError when 200 labs run."""
        kept = folder / "net"
        locks = Path(tempfile.gettempdir()) / f"stackwright-nets-{os.getuid()}"
        locks.mkdir(mode=0o700, exist_ok=True)
        first = (os.getuid() % 40) * 5 + 20  # users of one machine start apart
        names = [f"127.77.{(first + index) % 230 + 10}" for index in range(200)]
        # A lab started again keeps its addresses: its machines' files name them.
        for name in [kept.read_text().strip()] if kept.exists() else names:
            lock = (locks / name).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            kept.write_text(name + "\n")
            return cls(name, lock, folder)
        raise ToolError(
            "no loopback network is free for a lab", where=str(locks), remedy="Stop labs that are not needed."
        )

    @staticmethod
    def self_signed(name: str) -> ssl.SSLContext:
        """Make the TLS context of a server whose certificate nobody trusts, as an ingress's default one."""
        return Authority(name).server_context(name, [name])

    def address(self, index: int) -> str:
        """Return the address of this number: the last byte, as far as that goes."""
        block, last = divmod(index, PER_BLOCK)
        first, second, third = self.prefix.split(".")
        return f"{first}.{int(second) + block}.{third}.{last}"

    def release(self) -> None:
        """Give the network back."""
        self._lock.close()
