"""The house: one call for each part, what it needs flowing down from the settings."""

import pulumi
from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

import config
from components import (
    PROMETHEUS_CLAIM,
    LocalStorage,
    MetalLBPool,
    ObservabilityStack,
    OllamaStack,
    OpenWebUI,
    OpenWebUIBackup,
)

reserved = config.requested(config.chart_values())
settings = config.load(reserved)
plan = config.plan(settings, reserved)
pulumi.log.info(config.table(settings, plan))
ollama, webui, observability = settings.ollama, settings.webui, settings.observability
backup = webui.backup
disks = [node.disk.path for node in settings.nodes.values()]

cluster = Provider(
    "cluster",
    context=settings.context,
    # Empty, not unset: unset reads $KUBECONFIG into the state, so that laptop and CI would differ.
    kubeconfig="",
    # Otherwise the same cluster, reached by another address, is another one: all is replaced.
    cluster_identifier=pulumi.get_stack(),
    enable_config_map_mutable=True,
    # What somebody changed by hand is put back, instead of left as a conflict of two owners.
    enable_patch_force=True,
)
on_cluster = ResourceOptions(provider=cluster)

storage = LocalStorage(
    "storage",
    {
        "namespaces": {
            # A port on the node's tailnet address is all that needs more than `restricted`.
            "ollama-stack": "privileged" if webui.tailnet_address else "restricted",
            # node-exporter reads the host.
            "observability": "privileged",
        },
        "volumes": {
            "models": {
                "namespace": "ollama-stack",
                "path": ollama.volume.path,
                "size": ollama.volume.size,
                "node": settings.node_of(ollama),
            },
            "open-webui": {
                "namespace": "ollama-stack",
                "path": webui.volume.path,
                "size": webui.volume.size,
                "node": settings.node_of(webui),
            },
            "prometheus": {
                "namespace": "observability",
                "path": observability.volume.path,
                "size": observability.volume.size,
                "node": settings.node_of(observability),
                "claim": PROMETHEUS_CLAIM,
            },
            **(
                {
                    "backup": {
                        "namespace": "ollama-stack",
                        "path": backup.volume.path,
                        "size": backup.volume.size,
                        "node": settings.node_of(webui),
                    }
                }
                if backup
                else {}
            ),
        },
    },
    ResourceOptions(provider=cluster, protect=settings.protect),
)

addresses = MetalLBPool(
    "homelab",
    {
        "addresses": [settings.network.pool],
        "namespaces": ["ollama-stack", "observability"],
        "chart_version": settings.network.metallb_chart,
    },
    on_cluster,
)

monitoring = ObservabilityStack(
    "monitoring",
    {
        "namespace": storage.namespaces["observability"],
        "chart_version": observability.chart_version,
        "values": config.chart_values(),
        "class_name": storage.class_name,
        "volume_name": storage.volume_names["prometheus"],
        "volume_size": observability.volume.size,
        "retention_size": observability.retention_size,
        "dashboards": config.dashboards(
            disks, observability.runbook, backup_hours=backup.hours if backup else None
        ),
        "alerts": config.alerts(
            disks,
            gpu=bool(settings.profile.device),
            runbook=observability.runbook,
            backup_hours=backup.hours if backup else None,
        ),
        "lan_address": observability.lan_address,
        "address_pool": addresses.pool_name,
        "release_namespaces": addresses.release_namespaces,
        "pushed_from": [storage.namespaces["ollama-stack"]],
        "node": settings.node_of(observability),
    },
    on_cluster,
)

models = OllamaStack(
    "ollama",
    {
        "namespace": storage.namespaces["ollama-stack"],
        "image": ollama.image,
        "models": config.told(ollama.models, webui.embedding_model),
        "dry_run": ollama.dry_run,
        "claim_name": storage.claims["models"],
        "program_image": ollama.gateway_image,
        "job_program": config.workload(*config.MODEL_JOB),
        "gateway_program": config.workload(
            "gateway.py", "gateway_check.py", "gateway_meters.py", "gateway_rules.py"
        ),
        "cpu": ollama.cpu,
        "memory_request": plan.memory.request,
        "memory_limit": plan.memory.limit,
        "context_length": ollama.context_length,
        "parallel": ollama.parallel,
        "kv_cache": ollama.kv_cache,
        "loaded_models": plan.loaded_models,
        "prompt_cache_mib": ollama.prompt_cache_mib,
        "keep_alive": ollama.keep_alive,
        "backend": settings.profile.environment,
        "device": settings.profile.device,
        "device_groups": settings.gpu.groups if settings.gpu else [],
        "check_model": ollama.names[0] if settings.profile.device else "",
        "otlp_url": monitoring.otlp_url,
        "pod_labels": monitoring.pusher_labels,
        "memory_bandwidth": settings.memory_bandwidth,
        "read_bytes": config.read_bytes(),
        "label_users": observability.label_users,
        "node": settings.node_of(ollama),
    },
    on_cluster,
)

saved = backup and OpenWebUIBackup(
    "open-webui-backup",
    {
        "namespace": storage.namespaces["ollama-stack"],
        "image": webui.image,
        "restic_image": backup.image,
        "program": config.workload("backup.py", "repository.sh"),
        "data_claim": storage.claims["open-webui"],
        "backup_claim": storage.claims["backup"],
        "secret_name": "open-webui",
        "schedule": backup.schedule,
        "keep": backup.keep,
        "room": webui.volume.size,
        "otlp_url": monitoring.otlp_url,
        "pod_labels": monitoring.pusher_labels,
        "protect": settings.protect,
        "node": settings.node_of(webui),
    },
    on_cluster,
)

chat = OpenWebUI(
    "open-webui",
    {
        "namespace": storage.namespaces["ollama-stack"],
        "image": webui.image,
        "ollama_url": models.url,
        "pod_labels": {**models.client_labels, **monitoring.pusher_labels},
        "claim_name": storage.claims["open-webui"],
        "admin_email": webui.admin_email,
        "default_model": ollama.names[0],
        "embedding_model": webui.embedding_model,
        "task_model": webui.task_model,
        "cpu": webui.cpu,
        "memory_request": webui.memory.request,
        "memory_limit": webui.memory.limit,
        "reached_from": settings.reached_from,
        "lan_address": webui.lan_address,
        "address_pool": addresses.pool_name,
        "tailnet_address": webui.tailnet_address,
        "origins": [*settings.nodes, *(webui.origins or [])],
        "trusted_email_header": webui.trusted_email_header,
        "otlp_url": monitoring.otlp_url,
        "name_users": observability.label_users,
        "api_paths": config.API_PATHS if settings.completion_model else (),
        "after": [saved.before] if saved else [],
        "protect": settings.protect,
        "node": settings.node_of(webui),
    },
    on_cluster,
)

pulumi.export("models", settings.model_set)
pulumi.export("model_digests", settings.model_digests)
pulumi.export("open_webui_urls", chat.urls)
pulumi.export("open_webui_origins", chat.origins)
pulumi.export("open_webui_email", webui.admin_email)
pulumi.export("open_webui_password", chat.admin_password)
if settings.completion_model:
    model, context = settings.completion_model, ollama.context_length
    pulumi.export("ide_config", config.ide_config(chat.urls[0], model, context))
pulumi.export("grafana_url", monitoring.grafana_url)
pulumi.export("grafana_password", monitoring.admin_password)
if backup and saved:
    pulumi.export("backups", f"every {backup.hours} h to {backup.volume.path}")
    pulumi.export("backup_password", saved.password)
else:
    pulumi.export("backups", "none: chats are on one disk only (docs/backups.md)")
