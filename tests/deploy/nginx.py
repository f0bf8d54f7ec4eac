"""A real nginx with the configuration that is shipped, on ports and files of the test."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import signal
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.dev.process import Process, free_port
from tests.deploy.tools import DEPLOY, program

SHIPPED = DEPLOY / "nginx" / "relay.conf"
_STOP_WITH = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))


class Nginx:
    """Runs until `stop`. Takes TLS connections on ``port`` and passes on to ``receivers``."""

    def __init__(self, directory: Path, receivers: list[int]) -> None:
        self.port = free_port(None)
        self.logs = directory / "logs"
        self.logs.mkdir(parents=True)
        # The worker is another user when we are root.
        directory.chmod(0o755)
        certificate = _make_certificate(directory)
        self.tls = ssl.create_default_context(cafile=certificate)
        configuration = directory / "nginx.conf"
        configuration.write_text(self._main(directory, _adapted(self, directory, receivers)))
        nginx = program("nginx", source="Debian: nginx-light")
        with (directory / "stderr").open("wb") as stderr:
            self._process = Process(
                [nginx, "-p", directory, "-e", self.logs / "start.log", "-c", configuration],
                log=stderr,
                stop_with=_STOP_WITH,
            )
        self._directory = directory

    @property
    def exit_status(self) -> int | None:
        return self._process.exit_status

    def forbid_files(self) -> None:
        """Take away where nginx would put bodies, so that every try to do so fails."""
        shutil.rmtree(self._directory / "bodies")

    def everything_written(self) -> str:
        return "".join(
            path.read_text() for path in [*self.logs.iterdir(), self._directory / "stderr"]
        )

    def stop(self) -> None:
        self._process.stop()

    def _main(self, directory: Path, server: str) -> str:
        return f"""
            daemon off;
            pid {directory}/pid;
            worker_processes 2;
            events {{ worker_connections 512; }}
            http {{
                client_body_temp_path {directory}/bodies;
                proxy_temp_path {directory}/answers;
                fastcgi_temp_path {directory}/unused;
                uwsgi_temp_path {directory}/unused;
                scgi_temp_path {directory}/unused;
                {server}
            }}
        """


def _adapted(nginx: Nginx, directory: Path, receivers: list[int]) -> str:
    """The shipped file with the addresses and paths of the test, and nothing else changed."""
    text = SHIPPED.read_text()
    changes = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{nginx.port} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        "127.0.0.1:8080 ": f"127.0.0.1:{receivers[0]} ",
        "127.0.0.1:8090 ": f"127.0.0.1:{receivers[1]} ",
        "/etc/ssl/relay": str(directory),
        "/var/log/nginx": str(nginx.logs),
    }
    for shipped, ours in changes.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    return text


def _make_certificate(directory: Path) -> Path:
    """A key and a certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path = directory / "fullchain.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path
