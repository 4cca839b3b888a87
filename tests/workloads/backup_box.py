"""Runs the pods of Open WebUI and its backups as processes, from the program's objects."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import Deployment, backup_config, deploy_program
from page import ask, sign_in
from restic_lab import PASSWORD
from waiting import eventually

from sandbox.processes import free_ports

PASSWORDS = {"WEBUI_ADMIN_PASSWORD": "first of all 1", "WEBUI_SECRET_KEY": "k" * 48}


def program(image: str = "") -> Deployment:
    """Deploy the stack `home` with backups under mocks, with another `image` of Open WebUI."""
    raw = backup_config()
    raw["webui"] |= {"image": image} if image else {}
    return deploy_program("home", raw)


def cron(deployment: Deployment, name: str) -> dict[str, Any]:
    """Return the pod spec of a CronJob."""
    job = deployment[f"kubernetes:batch/v1:CronJob::{name}"].inputs["spec"]["jobTemplate"]
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def before(deployment: Deployment) -> dict[str, Any]:
    """Return the pod spec of the Job before an upgrade of the image."""
    job = deployment["kubernetes:batch/v1:Job::open-webui-backup-before"].inputs
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


class Box:
    """A node with a data disk and a backup disk, as folders."""

    def __init__(self, folder: Path, restic: Path, python: Path) -> None:
        """Use this restic, and Open WebUI from the environment of `python`."""
        self.folder, self.restic, self.python = folder, restic, python
        self.deployment = program()
        self.secrets = {**PASSWORDS, "RESTIC_PASSWORD": PASSWORD}
        self.mounts = {name: folder / name for name in ("data", "backup", "scratch", "workload")}
        for mount in self.mounts.values():
            mount.mkdir(parents=True)
        scripts = self.deployment["kubernetes:core/v1:ConfigMap::open-webui-backup-program"].inputs[
            "data"
        ]
        for name, text in scripts.items():
            (self.mounts["workload"] / name).write_text(text)
        self.otlp = ""
        self.page = ""
        self._process: subprocess.Popen[bytes] | None = None

    def local(self, text: str) -> str:
        """Replace a mount path of a pod by its folder on this machine."""
        for name, path in self.mounts.items():
            if text == f"/{name}" or text.startswith(f"/{name}/"):
                return f"{path}{text.removeprefix(f'/{name}')}"
        return text

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """Return a container's variables, with local paths, secrets and the URL of Prometheus."""
        path = f"{self.restic.parent}:{self.python.parent}:/usr/bin:/bin"
        variables = {"PATH": path, "USE_SLIM_DOCKER": "true"}
        for variable in container.get("env", []):
            value = (
                variable.get("value", "") if "value" in variable else self.secrets[variable["name"]]
            )
            variables[variable["name"]] = self.local(value)
        return variables | (
            {"BACKUP_OTLP_URL": self.otlp} if "BACKUP_OTLP_URL" in variables else {}
        )

    def step(self, container: Mapping[str, Any], **more: str) -> subprocess.Popen[str]:
        """Start one container."""
        return subprocess.Popen(
            [self.local(word) for word in [*container["command"], *container.get("args", [])]],
            env=self.environment(container) | more,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    def run(self, pod: Mapping[str, Any], **more: str) -> tuple[int, str]:
        """Run the containers of a pod one after the other, as a kubelet does.

        Return the exit code of the first that failed, or 0, and the output of all.
        """
        output = []
        self.empty_scratch()
        for container in steps(pod):
            process = self.step(container, **more)
            output.append(process.communicate(timeout=120)[0])
            if process.returncode:
                return process.returncode, "".join(output)
        return 0, "".join(output)

    def empty_scratch(self) -> None:
        """Empty the scratch volume, as in a new pod."""
        subprocess.run(["rm", "-rf", self.mounts["scratch"]], check=True)
        self.mounts["scratch"].mkdir()

    def start_page(self, user: Sequence[str] = (), **more: str) -> None:
        """Start Open WebUI with its Deployment's variables, without model server and metrics.

        `user` is a command prefix that runs a command as another user; `more` replaces variables.
        """
        deployment = self.deployment["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        nowhere = "http://127.0.0.1:9"
        environment = self.environment(container) | {
            "ENV": "prod",
            "ENABLE_OTEL": "false",
            "OLLAMA_BASE_URL": nowhere,
            "RAG_OLLAMA_BASE_URL": nowhere,
            "HOME": str(self.folder),
            "STATIC_DIR": str(self.folder / "static"),
            **more,
        }
        self.serve(environment, user)

    def serve(self, environment: Mapping[str, str], user: Sequence[str] = ()) -> None:
        """Start Open WebUI with this environment."""
        port = free_ports(1)[0]
        command = [*user, str(self.python), str(self.python.with_name("open-webui")), "serve"]
        with (self.folder / "page.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.page = f"http://127.0.0.1:{port}"

    def wait_for_page(self) -> None:
        """Wait until it answers."""

        def ready() -> bool:
            assert self._process
            assert self._process.poll() is None, (self.folder / "page.log").read_text()[-2000:]
            with suppress(OSError):
                return ask("GET", f"{self.page}/ready")[0] == 200
            return False

        assert eventually(ready)

    def stop_page(self, number: int = signal.SIGTERM) -> None:
        """End Open WebUI."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def sign_in(self, email: str, password: str) -> str:
        """Sign in; return the account's token."""
        return sign_in(self.page, email, password)

    def create_chat(self, token: str, words: str) -> str:
        """Create a chat with these words; return its ID."""
        message = {"id": "m", "role": "user", "content": words, "parentId": None}
        history = {"messages": {"m": message}, "currentId": "m"}
        chat = {"title": words, "history": history, "messages": [message]}
        status, text = ask("POST", f"{self.page}/api/v1/chats/new", {"chat": chat}, token)
        assert status == 200, text
        identity: str = json.loads(text)["id"]
        return identity

    def read_chat(self, token: str, identity: str) -> str:
        """Return the words of a chat."""
        status, text = ask("GET", f"{self.page}/api/v1/chats/{identity}", token=token)
        assert status == 200, text
        words: str = json.loads(text)["chat"]["history"]["messages"]["m"]["content"]
        return words


def steps(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the containers of a pod in their order of execution."""
    return [*pod["initContainers"], *pod["containers"]]


def kill(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to a container's process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
