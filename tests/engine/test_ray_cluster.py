"""Ray clusters that cannot be joined, and how many trainings one holds."""

from __future__ import annotations

import socket

import pytest

from sweeper.core.errors import ServiceUnreachable, UsageError


@pytest.mark.parametrize(
    ("address", "error", "says"),
    [
        ("127.0.0.1:1", ServiceUnreachable, "Ray cluster 127.0.0.1:1 cannot be joined (Connection refused)"),
        ("nohost.invalid:6379", ServiceUnreachable, "Ray cluster nohost.invalid:6379 cannot be joined ("),
        ("a..b:6379", ServiceUnreachable, "Ray cluster a..b:6379 cannot be joined ("),
        ("127.0.0.1:99999", ServiceUnreachable, "Ray cluster 127.0.0.1:99999 cannot be joined ("),
        ("me:canary@127.0.0.1:1", UsageError, "Ray address '127.0.0.1:1' is not valid. Use auto or HOST:PORT."),
        ("127.0.0.1", UsageError, "Use auto or HOST:PORT"),
        ("127.0.0.1:x", UsageError, "Use auto or HOST:PORT"),
        ("ray://127.0.0.1:10001", UsageError, "Run sweeper in the cluster: ray job submit"),
    ],
)
def test_a_ray_cluster_that_cannot_be_joined_is_one_line(address: str, error: type, says: str):
    pytest.importorskip("ray")
    from sweeper.engine.ray_cluster import check_cluster

    with pytest.raises(error) as caught:
        check_cluster(address)
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_host_that_is_no_ray_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    from sweeper.engine import ray_cluster

    monkeypatch.setattr(ray_cluster, "JOIN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServiceUnreachable, match="no answer within"):
        ray_cluster.check_cluster(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("cluster", "cpus", "gpus", "trainings"),
    [
        ({"CPU": 12.0}, 1.0, 0.0, 12),
        ({"CPU": 12.0}, 5.0, 0.0, 2),
        ({"CPU": 12.0, "GPU": 1.0}, 1.0, 0.25, 4),
        ({"CPU": 0.3}, 0.1, 0.0, 3),
        ({"CPU": 12.0}, 1.0, 1.0, 1),
        ({}, 0.0, 0.0, 1),
    ],
)
def test_as_many_trainings_as_the_cluster_holds(cluster: dict[str, float], cpus: float, gpus: float, trainings: int):
    pytest.importorskip("ray")
    from sweeper.engine.ray import room

    assert room(cluster, {"CPU": cpus, "GPU": gpus}) == trainings
