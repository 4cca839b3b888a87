"""A program of any size for the benchmark: as many volumes and models as $BENCH_COUNT says."""

import os

from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

from components import LocalStorage, OllamaStack

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
OllamaStack(
    "ollama",
    {
        "namespace": storage.namespaces["bench"],
        "claim_name": storage.claims["volume-0"],
        "pod": {"image": "ollama:1.0.0", "cpu": 1, "memory_request": "1Gi", "memory_limit": "1Gi"},
        "models": {"declared": [{"name": f"model-{number}:1b"} for number in range(COUNT)]},
        "gateway": {"image": "python:1.0.0"},
        "model_name": "",
        "runtime": {
            "context_length": 8192,
            "parallel": 1,
            "loaded_models": 1,
            "prompt_cache_mib": 512,
            "keep_alive": "30m",
            "backend": {"OLLAMA_LLM_LIBRARY": "cpu"},
        },
    },
    ResourceOptions(provider=cluster),
)
