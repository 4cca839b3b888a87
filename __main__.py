"""Composes the homelab stack from its settings, one component after the other."""

from typing import cast

import pulumi
from pulumi import ResourceOptions
from pulumi_kubernetes import Provider

import config
from components import (
    CHART_VALUES,
    PROMETHEUS_CLAIM,
    LocalStorage,
    LocalVolume,
    MetalLBPool,
    Notify,
    ObservabilityStack,
    OllamaStack,
    OpenWebUI,
    OpenWebUIBackup,
    Pod,
    Telemetry,
)
from ops.waits import log_waits


def pod(workload: config.Ollama | config.WebUI, memory: config.Memory) -> Pod:
    """Return the image, resources and node of a workload's pod."""
    return {
        "image": workload.image,
        "cpu": workload.cpu,
        "memory_request": memory.request,
        "memory_limit": memory.limit,
        "node": settings.node_of(workload),
    }


def volume(
    workload: config.Workload, directory: config.Volume, namespace: str = "ollama-stack"
) -> LocalVolume:
    """Return a volume at `directory` on the workload's node."""
    node = settings.node_of(workload)
    return {"namespace": namespace, "path": directory.path, "size": directory.size, "node": node}


reserved = config.requested(CHART_VALUES)
settings = config.load(reserved)
plan = config.plan(settings, reserved)
pulumi.log.info(config.table(settings, plan))
# The provider's lines do not say why a pod waits.
log_waits(settings.context)
ollama, webui, observability = settings.ollama, settings.webui, settings.observability
backup, notify = webui.backup, observability.notify
claims = {key: name.replace("ollama", "models", 1) for key, name in settings.instances.items()}
secret = pulumi.Output.secret(settings.notifySecret)

cluster = Provider(
    "cluster",
    context=settings.context,
    # Empty, because the default reads $KUBECONFIG into the state, which differs between machines.
    kubeconfig="",
    # Without it, a changed URL of the API server replaces every resource.
    cluster_identifier=pulumi.get_stack(),
    enable_config_map_mutable=True,
    # Otherwise a changed Secret is replaced, and before it all Deployments that use it.
    enable_secret_mutable=True,
    # Overwrite manual changes instead of failing on conflicts between field managers.
    enable_patch_force=True,
)
on_cluster = ResourceOptions(provider=cluster)

storage = LocalStorage(
    "storage",
    {
        "namespaces": {
            # A hostPort, for the node's tailnet address, requires `privileged`.
            "ollama-stack": "privileged" if webui.tailnet_address else "restricted",
            # node-exporter requires hostPath, hostNetwork and hostPID.
            "observability": "privileged",
        },
        "volumes": {
            **{claims[key]: volume(it, it.volume) for key, it in settings.model_servers.items()},
            "open-webui": volume(webui, webui.volume),
            "prometheus": {
                **volume(observability, observability.volume, "observability"),
                "claim": PROMETHEUS_CLAIM,
            },
            **({"backup": volume(webui, backup.volume)} if backup else {}),
        },
    },
    ResourceOptions(provider=cluster, protect=settings.protect),
)
namespace = storage.namespaces["ollama-stack"]

addresses = MetalLBPool(
    "homelab",
    {
        "addresses": [settings.network.pool],
        "namespaces": ["ollama-stack", "observability"],
        "chart_version": settings.network.metallb_chart,
        "chart": settings.charts.get("metallb"),
    },
    on_cluster,
)

monitoring = ObservabilityStack(
    "monitoring",
    {
        "namespace": storage.namespaces["observability"],
        "chart_version": observability.chart_version,
        "chart": settings.charts.get("kube-prometheus-stack"),
        "history": {
            "class_name": storage.class_name,
            "size": observability.volume.size,
            "retention_size": observability.retention_size,
        },
        "monitored": {
            "disks": [node.disk.path for node in settings.nodes.values()],
            "runbook": observability.runbook,
            "servers": {
                settings.instances[key]: settings.node_of(server)
                for key, server in settings.model_servers.items()
            },
            "gpu_servers": [
                settings.instances[key]
                for key, server in settings.model_servers.items()
                if settings.gpu(server)
            ],
            "backup_hours": backup.hours if backup else None,
            "notify": cast("Notify", {**notify.model_dump(), "secret": secret}) if notify else None,
            "backup_path": backup.volume.path if backup else "/",
        },
        "access": {
            "client_cidrs": sorted({settings.network.lan, *settings.client_cidrs}),
            "lan_address": observability.lan_address,
            "address_pool": addresses.pool_name,
        },
        "release_namespaces": addresses.release_namespaces,
        "readable_secrets": {
            "ollama-stack": {
                "namespace": namespace,
                "names": [
                    *(f"{name}-gateway" for name in settings.instances.values()),
                    *("open-webui", *(["open-webui-backup"] if backup else [])),
                ],
            }
        },
        "pusher_namespaces": [namespace],
        "node": settings.node_of(observability),
    },
    on_cluster,
)
telemetry: Telemetry = {"otlp_url": monitoring.otlp_url, "pod_labels": monitoring.pusher_labels}

models = {
    key: OllamaStack(
        settings.instances[key],
        {
            "namespace": namespace,
            "claim_name": storage.claims[claims[key]],
            "pod": pod(server, plan.servers[key].memory),
            "runtime": {
                "context_length": server.context_length,
                "parallel": server.parallel,
                "loaded_models": plan.servers[key].loaded_models,
                "kv_cache": server.kv_cache,
                "prompt_cache_mib": server.prompt_cache_mib,
                "keep_alive": server.keep_alive,
                "backend": {**settings.profile(server).environment},
                "device": settings.profile(server).device,
                "device_groups": gpu.groups if (gpu := settings.gpu(server)) else [],
            },
            "models": {
                "declared": config.model_job_entries(server.models, settings.models_on(server)),
                "refreshed": server.refreshed,
                "dry_run": server.dry_run,
            },
            "gateway": {
                "image": server.gateway_image,
                "memory_bandwidth": settings.memory_bandwidth(server),
                "read_bytes": config.read_bytes(),
                "label_users": observability.label_users,
            },
            "telemetry": telemetry,
        },
        on_cluster,
    )
    for key, server in settings.model_servers.items()
}

snapshots = backup and OpenWebUIBackup(
    "open-webui-backup",
    {
        "namespace": namespace,
        "images": {"open_webui": webui.image, "restic": backup.image},
        "claims": {"data": storage.claims["open-webui"], "backup": storage.claims["backup"]},
        "secret_name": "open-webui",
        "schedule": backup.schedule,
        "keep": backup.keep,
        "scratch_size": webui.volume.size,
        "telemetry": telemetry,
        "protect": settings.protect,
        "node": settings.node_of(webui),
    },
    on_cluster,
)

chat = OpenWebUI(
    "open-webui",
    {
        "namespace": namespace,
        "claim_name": storage.claims["open-webui"],
        "pod": pod(webui, webui.memory),
        "admin_email": webui.admin_email,
        "models": {
            "url": models["ollama"].url,
            "further_urls": [it.url for key, it in models.items() if key != "ollama"],
            "client_labels": {k: v for it in models.values() for k, v in it.client_labels.items()},
            "default": ollama.names[0],
            "embedding": webui.embedding_model,
            "prefixes": [*config.prefixes(webui.embedding_model)],
            "task": webui.task_model,
            "forward_users": observability.label_users,
        },
        "access": {
            "client_cidrs": settings.client_cidrs,
            "lan_address": webui.lan_address,
            "address_pool": addresses.pool_name,
            "tailnet_address": webui.tailnet_address,
            "origins": [*settings.nodes, *(webui.origins or [])],
            "trusted_email_header": webui.trusted_email_header,
            "api_paths": [*config.API_PATHS] if settings.completion_model else [],
        },
        "telemetry": telemetry,
        "depends_on": [snapshots.pre_upgrade] if snapshots else [],
        "protect": settings.protect,
    },
    on_cluster,
)

pulumi.export("models", settings.model_set)
pulumi.export("open_webui_urls", chat.urls)
pulumi.export("open_webui_origins", chat.origins)
pulumi.export("open_webui_email", webui.admin_email)
pulumi.export("open_webui_password", chat.admin_password)
pulumi.export(
    "open_webui_account",
    "if the volume already had accounts, their old passwords are still valid; to set the new one:"
    " docs/people.md#the-admin-password-is-lost",
)
if settings.completion_model:
    model, servers = settings.completion_model, settings.model_servers.values()
    context = next(server.context_length for server in servers if server.find(model))
    pulumi.export("ide_config", config.ide_config(chat.urls[0], model, context))
pulumi.export("grafana_url", monitoring.grafana_url)
pulumi.export("grafana_password", monitoring.admin_password)
pulumi.export(
    "alerts",
    f"by {notify.receiver}: critical at once, warnings from 8:00 to 22:00 ({notify.timezone})"
    if notify
    else "reach nobody: set observability.notify (docs/operate.md#who-is-called)",
)
if settings.protect and not settings.copies_kept:
    pulumi.export(
        "copies",
        "keep Pulumi's state, its passphrase and backup_password in another place too, then set"
        " copies_kept (docs/backups.md#keep-in-another-place)",
    )
if backup and snapshots:
    pulumi.export("backups", f"every {backup.hours} h to {backup.volume.path}")
    pulumi.export("backup_password", snapshots.password)
else:
    pulumi.export("backups", "none: chats are on one disk only (docs/backups.md)")
