"""A program with $BENCH_COUNT volumes and models, and $BENCH_SERVERS model servers."""

import os

from harness import small_ollama_stack
from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

from components import LocalStorage

COUNT = int(os.environ["BENCH_COUNT"])
SERVERS = int(os.environ["BENCH_SERVERS"])

cluster = Provider("cluster", context="homelab-sandbox", kubeconfig="", cluster_identifier="bench")
storage = LocalStorage(
    "storage",
    {
        "volumes": {
            f"volume-{number}": {
                "path": f"/mnt/evo4t/volume-{number}",
                "size": "1Gi",
                "namespace": "bench",
                "node": "evo4t",
            }
            for number in range(COUNT)
        },
        "namespaces": {"bench": "restricted"},
        "class_name": "bench",
    },
    ResourceOptions(provider=cluster),
)
for number in range(SERVERS):
    small_ollama_stack(
        "ollama" if number == 0 else f"ollama-{number}",
        storage.namespaces["bench"],
        storage.claims[f"volume-{number}"],
        [f"model-{model}:1b" for model in range(COUNT)],
        ResourceOptions(provider=cluster),
    )
