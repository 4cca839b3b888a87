"""Which authorities the commands trust."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import trustme
import urllib3.util.ssl_
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ops.cluster import Cluster, UnreadableError, certificate_days


def authority_without_key_usage() -> trustme.CA:
    """Return an authority as MicroK8s made it before June 2026 (microk8s#4864)."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "10.152.183.1")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=3650))
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return trustme.CA.from_pem(certificate.public_bytes(Encoding.PEM), private)


@pytest.mark.parametrize("is_own", [True, False])
def test_an_authority_without_key_usage_is_trusted_where_python_is_strict(
    is_own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As by default since Python 3.13, in urllib3, too."""
    lax = ssl.create_default_context

    def strict(**options: str) -> ssl.SSLContext:
        context = lax(**options)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    monkeypatch.setattr(urllib3.util.ssl_, "sys", SimpleNamespace(version_info=(3, 13)))
    authority, tls = authority_without_key_usage(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    known = authority if is_own else authority_without_key_usage()
    known.cert_pem.write_to_path(ca := str(tmp_path / "ca"))

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"major": "1"})

    async def look() -> tuple[object, float]:
        app = web.Application()
        app.router.add_get("/version", version)
        server = TestServer(app, scheme="https")
        await server.start_server(ssl=tls)
        cluster = {"server": str(server.make_url("")), "certificate-authority": ca}
        (file := tmp_path / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                    "contexts": [{"name": "home", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        api = Cluster("home", file)
        try:
            with monkeypatch.context() as shared:
                # Threads share the context: to load a file into it then may crash Python.
                refuse = Mock(side_effect=OSError)
                shared.setattr(ssl.SSLContext, "load_verify_locations", refuse, raising=False)
                answer = await asyncio.to_thread(api.read, "/version")
            return answer, await asyncio.to_thread(certificate_days, api.configuration)
        finally:
            await server.close()

    if not is_own:
        with pytest.raises(UnreadableError, match="certificate verify failed"):
            asyncio.run(look())
        return
    answer, days = asyncio.run(look())
    assert answer == {"major": "1"}
    assert days > 0
