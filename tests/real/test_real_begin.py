"""How things stand after the first `up`, during which the images came late."""

from real_lab import Server

from ops import drift, stacks
from ops.stacks import Stack


def test_a_first_up_waits_for_images_and_leaves_nothing_to_do(server: Server) -> None:
    engine = server.engine
    stack = Stack(
        name="sandbox",
        cli=engine.cli,
        kubeconfig=server.cluster.kubeconfig,
        folder=engine.work,
    )
    failed = {
        event["involvedObject"]["fieldPath"]
        for event in server.objects("v1", "Event")
        if event["reason"] == "Failed" and "pull" in event["message"]
    }

    assert any("ollama" in container for container in failed)
    assert drift.check(stack, stacks.deployment(stack)) == ([], [])
    assert engine.up(lambda _: None).keys() == {"same"}
