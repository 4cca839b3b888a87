"""One cluster with a real node, and the stack on it, for all tests here."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_lab import connect
from real_lab import Person, Server
from waiting import eventually

from config.versions import OLLAMA_IMAGE, RESTIC_IMAGE
from sandbox import images, oci, requirements
from sandbox.build import Tools, build
from sandbox.processes import SandboxError
from sandbox.programs import install_all
from sandbox.real_cluster import Cluster

# The gateway's 10 seconds and Open WebUI's 15 would make the tests wait.
HURRY = ["GATEWAY_PUSH_SECONDS=2", "GATEWAY_POLL_SECONDS=2", "OTEL_METRIC_EXPORT_INTERVAL=2000"]


@pytest.fixture(scope="session")
def real_tools(packages: None) -> Tools:
    """The project's tools, with the published chart where there is one."""
    del packages
    try:
        requirements.check_kernel()
    except SandboxError as error:
        pytest.skip(str(error))
    return build()


@pytest.fixture(scope="session")
def real_programs(real_tools: Tools) -> dict[str, Path]:
    """What runs on the node, built, and its images."""
    del real_tools
    built = install_all()
    images.open_webui()
    return built


class Hurried(Cluster):
    """A cluster whose page and gateway push what they measure every two seconds."""

    def images(self) -> list[oci.Image]:
        """Give all images, those of the page with another environment."""

        def hurried(image: oci.Image) -> oci.Image:
            if "open-webui" not in image.name:
                return image
            return replace(image, config={**image.config, "Env": [*image.config["Env"], *HURRY]})

        return [hurried(image) for image in super().images()]


@pytest.fixture(scope="package")
def server(
    real_programs: dict[str, Path], real_tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The stack, up, whose page answers; its own images came while the first `up` ran."""
    folder = tmp_path_factory.mktemp("real")
    cluster = Hurried(folder, real_programs, real_tools.addons())
    late = {OLLAMA_IMAGE, RESTIC_IMAGE, *images.PAGES}
    system = [images.image(name, real_programs) for name in images.NAMES if name not in late]
    try:
        cluster.start(system)
        with ThreadPoolExecutor(1) as pool:
            arrived = pool.submit(arrive, cluster)
            server = Server(cluster, real_tools)
            server.begin()
            arrived.result()
        yield server
    finally:
        cluster.stop()


def arrive(cluster: Cluster) -> None:
    """Import the images that are missing as soon as a pod of the stack has asked for one."""
    pods = connect(cluster).resources.get(api_version="v1", kind="Pod")

    def asked() -> bool:
        items = pods.get(namespace="ollama-stack").to_dict()["items"]
        return any("ErrImagePull" in str(pod["status"]) for pod in items)

    assert eventually(asked)
    oci.load(cluster.node, cluster.images())


@pytest.fixture
def metrics(server: Server) -> Server:
    """The same; a test without the published chart, which runs Prometheus, is skipped."""
    if not server.has_metrics:
        pytest.skip("HOMELAB_CHARTS: the published chart is not there, so there are no metrics")
    assert eventually(server.measures)
    return server


@pytest.fixture(params=["admin", "user"])
def person(server: Server, request: pytest.FixtureRequest) -> Person:
    """Whoever uses the page: what works for the admin alone does not work."""
    return server.person(request.param)
