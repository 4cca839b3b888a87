"""What the laptop needs: its tools, the stack's state and passphrase, and the way to the API."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address, ip_network
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_kube_config

from ops.cluster import UnreadableError
from ops.doctor_checks import Result, fail, ok, warn
from ops.drift_declared import Cli
from ops.program import ROOT

PYTHON = (3, 11)
DAY = 24 * 3600
RENEW = 30
"""Days before the end of the API server's certificate from which it is told."""
SKEW = 60
"""Seconds that two clocks may differ; the answer itself takes some."""
PATIENCE = 4.0
"""Seconds for the state, which other checks wait for."""
NAME_DIFFERS = (62, 64)
EXPIRED = 10
"""OpenSSL's own numbers, X509_V_ERR_… in x509_vfy.h."""


def tools(pulumi: str | None) -> Result:
    """Look at the versions of Python and of the CLI at `pulumi`."""
    needed = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["requiredPulumiVersion"]
    oldest = needed.removeprefix(">=")
    get = f"install Pulumi {oldest} or newer"
    if sys.version_info < PYTHON:
        return fail(f"Python {sys.version.split()[0]}: must be 3.11 or newer", "make .venv/ready")
    if not pulumi:
        return fail("pulumi: not on PATH", get)
    told = subprocess.run([pulumi, "version"], capture_output=True, text=True, check=True).stdout
    found = told.strip().removeprefix("v")
    if _numbers(found) < _numbers(oldest):
        return fail(f"pulumi {found}: must be {oldest} or newer", get)
    return ok(f"pulumi {found}, Python {sys.version.split()[0]}")


def exported(cli: Cli) -> CompletedProcess[str]:
    """Run `pulumi stack export`, or fail as it would when the backend takes too long."""
    late = f"no answer within {PATIENCE:g} s"
    answers = [CompletedProcess[str]([], 1, "", late)]
    ask = Thread(target=lambda: answers.insert(0, cli("stack", "export")), daemon=True)
    ask.start()
    ask.join(PATIENCE)
    return answers[0]


def state(stack: str, answer: CompletedProcess[str]) -> Result:
    """Judge what `pulumi stack export` answered."""
    if answer.returncode == 0:
        made = (json.loads(answer.stdout).get("deployment") or {}).get("resources") or []
        return ok(f"stack {stack}, {len(made)} resources")
    if "no stack named" in answer.stderr:
        return fail(f"there is no stack {stack}", f"pulumi stack init {stack}")
    return fail(f"pulumi stack export: {_line(answer)}", "pulumi login, where the state is")


def passphrase(cli: Cli, stack_file: Path) -> Result:
    """Let the CLI encrypt a word into a copy of the stack file, which takes its passphrase."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / stack_file.name
        shutil.copyfile(stack_file, copy)
        wanted = ("config", "set", "--secret", "--config-file", str(copy))
        done = cli(*wanted, "homelab:doctor", "a word")
    if done.returncode == 0:
        return ok("encrypts")
    remedy = "set PULUMI_CONFIG_PASSPHRASE_FILE to the file with the stack's passphrase"
    return fail(f"pulumi config set --secret: {_line(done)}", remedy)


def configuration(context: str, kubeconfig: Path | None) -> Configuration:
    """Read a context of `kubeconfig`, or of the one `KUBECONFIG` names; raises UnreadableError."""
    found = Configuration()
    load: Any = load_kube_config
    file = str(kubeconfig) if kubeconfig else None
    try:
        load(file, context, client_configuration=found, persist_config=False)
    except (ConfigException, OSError) as error:
        line = " ".join(str(error).split())
        raise UnreadableError(f"kubeconfig, context {context!r}: {line}") from error
    return found


def connection(context: str, kubeconfig: Path | None) -> Result:
    """Shake hands with the API server as the kubeconfig says, and compare clocks."""
    try:
        api = configuration(context, kubeconfig)
    except UnreadableError as error:
        return fail(str(error), "let KUBECONFIG name the file, and homelab:context a context in it")
    server = urlsplit(api.host)
    host, port = server.hostname or "", server.port or 443
    if server.scheme != "https" or not api.verify_ssl:
        remedy = "an https server, no insecure-skip-tls-verify, and tls-server-name: kubernetes"
        return fail(f"kubeconfig: {api.host} is not verified", remedy)
    name = api.tls_server_name or host
    trusted = ssl.create_default_context(cafile=api.ssl_ca_cert)
    try:
        with (
            socket.create_connection((host, port), timeout=5) as plain,
            trusted.wrap_socket(plain, server_hostname=name) as secure,
        ):
            expires = ssl.cert_time_to_seconds(str((secure.getpeercert() or {})["notAfter"]))
            # Refused or not, each answer has a date.
            secure.sendall(f"HEAD /version HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            answer = HTTPResponse(secure, method="HEAD")
            answer.begin()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in NAME_DIFFERS:
            remedy = "kubectl config set-cluster microk8s-cluster --tls-server-name=kubernetes"
            return fail(f"{host}:{port}: its certificate is not for {name}", remedy)
        if error.verify_code == EXPIRED:
            remedy = "on the house: sudo microk8s refresh-certs -e server.crt"
            return fail(f"{host}:{port}: its certificate has expired, or a clock is wrong", remedy)
        remedy = "take the kubeconfig anew: sudo microk8s config"
        return fail(f"{host}:{port}: its certificate: {error.verify_message}", remedy)
    except (OSError, HTTPException) as error:
        remedy = "is Tailscale up on both (tailscale status), and do its rules open the port?"
        return fail(f"{host}:{port}: no answer: {error}", remedy)
    left = int(expires - time.time()) // DAY
    skew = _behind(answer.headers["Date"])
    text = f"{host}:{port} as {name}, certificate for {left} days, clocks {abs(skew):.0f} s apart"
    if abs(skew) > SKEW:
        return warn(text, "set the clock that is wrong: timedatectl, on the house and here")
    if left < RENEW:
        return warn(text, "on the house: sudo microk8s refresh-certs -e server.crt; all restarts")
    return ok(text)


def at_home(lan: str, address: str) -> bool:
    """Say whether this laptop would reach `address` from an address of its own in `lan`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: it only chooses the way.
            probe.connect((address, 9))
        except OSError:
            return False
        return ip_address(probe.getsockname()[0]) in ip_network(lan)


def _behind(date: str) -> float:
    """How many seconds a server's clock is behind this one."""
    return (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split("."))


def _line(done: CompletedProcess[str]) -> str:
    """The line of an error that tells the cause."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[0].removeprefix("error: ") if lines else f"exit code {done.returncode}"
