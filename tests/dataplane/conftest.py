"""One house for all tests here that need the real programs; it takes a minute to come up."""

from collections.abc import Iterator

import pytest
from real_house import GATEWAY, House, Person

from sandbox.build import Tools
from sandbox.cluster import Node
from sandbox.demo import Demo
from sandbox.programs import Programs

HURRY = {
    "GATEWAY_PUSH_SECONDS": "2",
    "GATEWAY_POLL_SECONDS": "2",
    "OTEL_METRIC_EXPORT_INTERVAL": "2000",
}
NODE = Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")


@pytest.fixture(scope="package")
def house(
    tools: Tools, programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """The house, up, its models pulled and its admin signed in."""
    lines: list[str] = []
    demo = Demo(tmp_path_factory.mktemp("house"), tools, programs, lines.append)
    try:
        demo.edit(lambda _: None)
        # The chart's 30 seconds, and the 10 and 15 of the pushers, would make the tests wait.
        demo.start([NODE], ["/mnt/evo4t"], interval="2s", hurry=HURRY)
        (job,) = demo.kubelet.run_jobs().values()
        assert job.code() == 0, job.log().read_text()
        here = demo.machine.addresses()
        page = here["open-webui-service-local.ollama-stack:8080"]
        house = House(demo, f"http://{page}", f"http://{here[GATEWAY]}")
        house.sign_in()
        yield house
    finally:
        demo.remove()


@pytest.fixture(params=["admin", "user"])
def person(house: House, request: pytest.FixtureRequest) -> Person:
    """Whoever uses the page: what works for the admin alone does not work."""
    return house.person(request.param)
