"""A program of any size for the benchmark.

$BENCH_COUNT volumes and models, and $BENCH_SERVERS model servers, at most as many.
"""

import os

from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

from components import LocalStorage, OllamaStack

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
    OllamaStack(
        "ollama" if number == 0 else f"ollama-{number}",
        {
            "namespace": storage.namespaces["bench"],
            "claim_name": storage.claims[f"volume-{number}"],
            "pod": {
                "image": "ollama:1.0.0",
                "cpu": 1,
                "memory_request": "1Gi",
                "memory_limit": "1Gi",
            },
            "models": {"declared": [{"name": f"model-{model}:1b"} for model in range(COUNT)]},
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
