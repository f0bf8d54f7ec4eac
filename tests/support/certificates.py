"""Certificates made for a test: an authority, and what it signs for servers and clients."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

HERE = ("localhost", "127.0.0.1")
_DAY = timedelta(days=1)


class Pair(NamedTuple):
    """The files of a certificate and of its key, in PEM."""

    certificate: Path
    key: Path


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """Signs what it is asked to, and writes all of it below ``directory``.

    With every extension that Python 3.13 wants to see, which verifies strictly.
    """

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"test {name}")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        made = self._build(self._name, self._key, timedelta(days=30))
        made = made.add_extension(constraints, critical=True)
        made = made.add_extension(_SIGNS_CERTIFICATES, critical=True)
        self.certificate = directory / f"{name}.pem"
        self._write(self.certificate, made)

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = HERE,
        *,
        lifetime: timedelta = timedelta(days=30),
        passphrase: str | None = None,
    ) -> Pair:
        """A certificate for the common name and the hosts; a negative lifetime is over."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._build(_name(name), key, lifetime).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        if hosts:
            names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
            made = made.add_extension(names, critical=False)
        path = self._directory / f"{name}-{len(list(self._directory.iterdir()))}.pem"
        self._write(path, made)
        key_path = path.with_suffix(".key")
        key_path.touch(mode=0o600)
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(passphrase.encode())
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return Pair(path, key_path)

    def revoke(self, pair: Pair) -> Path:
        """A list of revoked certificates that holds this one."""
        now = datetime.now(UTC)
        serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _DAY)
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - _DAY)
            .next_update(now + _DAY)
            .add_revoked_certificate(revoked.build())
            .sign(self._key, hashes.SHA256())
        )
        path = pair.certificate.with_suffix(".crl")
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return path

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + lifetime)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def _write(self, path: Path, made: x509.CertificateBuilder) -> None:
        path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
