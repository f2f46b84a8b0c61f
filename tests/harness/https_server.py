"""A WSGI app on https, on a free port of this machine, with a certificate that one browser is told to trust."""

import base64
import hashlib
import ssl
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        del args


class HttpsServer:
    """Serves an app for some hosts until it is stopped. ``app`` may be replaced meanwhile.

    Args:
        app: the app.
        hosts: the hosts in the certificate.
        folder: a folder for the certificate.
    """

    def __init__(self, app: Any, hosts: Sequence[str], folder: Path) -> None:
        self.app = app
        certificate, self._spki = _certificate(hosts, folder)
        self._server = _Server(("127.0.0.1", 0), _Quiet)
        self._server.set_app(self._serve)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        names = ", ".join(f"MAP {host}:443 127.0.0.1:{self._server.server_port}" for host in hosts)
        self.arguments = [
            f"--host-resolver-rules={names}",
            f"--ignore-certificate-errors-spki-list={self._spki}",
        ]
        """Arguments for Chromium, which then finds the hosts here and trusts the certificate."""

    def _serve(self, environ: Any, start_response: Any) -> Any:
        return self.app(environ, start_response)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _certificate(hosts: Sequence[str], folder: Path) -> tuple[Path, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return path, base64.b64encode(hashlib.sha256(spki).digest()).decode()
