"""The doctor on a real API server with the stack up."""

import pytest
from doctor_lab import Place
from live_stack import LiveStack

from ops import doctor


@pytest.fixture
def place(live_stack: LiveStack) -> Place:
    """The cluster of the live stack."""
    return Place(live_stack.cluster, live_stack.engine)


def test_the_stacks_own_objects_are_no_conflict(place: Place) -> None:
    for check in (doctor.names, doctor.addresses, doctor.addons):
        assert place.problems(check) == []


def test_without_a_state_the_stacks_objects_are_conflicts(place: Place) -> None:
    results = place.problems(doctor.names, state=False)

    assert 'StorageClass "local-path" already exists' in results
    assert 'Namespace "ollama-stack" already exists' in results
    assert 'PersistentVolume "ollama-stack-models" already exists' in results
    addresses = place.problems(doctor.addresses, state=False)
    assert "192.168.1.102 is used by Service observability/grafana-external" in addresses
