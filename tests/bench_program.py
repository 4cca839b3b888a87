"""A program with $BENCH_COUNT volumes and models."""

import os

from harness import small_ollama_stack
from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

from components import LocalStorage

COUNT = int(os.environ["BENCH_COUNT"])

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
small_ollama_stack(
    "ollama",
    storage.namespaces["bench"],
    storage.claims["volume-0"],
    [f"model-{model}:1b" for model in range(COUNT)],
    ResourceOptions(provider=cluster),
)
