"""Dashboard of the server: data disk, memory and pods; the chart has others for Prometheus."""

from components.observability.dashboards.panels import Board, Panel, high, low

OURS = 'namespace=~"ollama-stack|observability"'
RESTARTS = (
    "sum by (namespace, pod, container)"
    f" (increase(kube_pod_container_status_restarts_total{{{OURS}}}[1h])"
    f" or increase(kube_pod_init_container_status_restarts_total{{{OURS}}}[1h]))"
)
TSDB = (
    "max(prometheus_tsdb_storage_blocks_bytes) + max(prometheus_tsdb_wal_storage_size_bytes)"
    " + max(prometheus_tsdb_head_chunks_storage_size_bytes)"
)


def planned(kind: str) -> str:
    """Return a query for the memory of running containers, by container.

    `kind` is `requests` or `limits`. Ollama is a sidecar, which counts as an init container.
    """
    running = 'and on (namespace, pod) kube_pod_status_phase{phase="Running"} == 1'
    memory = f'{kind}{{resource="memory"}}'
    return (
        f"sum by (namespace, container) (kube_pod_container_resource_{memory} {running}"
        f" or kube_pod_init_container_resource_{memory} and on (namespace, pod, container)"
        " kube_pod_init_container_status_running == 1)"
    )


def last_backup(hours: int) -> Panel:
    """Return the panel of the last backup's age, for backups every `hours`."""
    good = "max(max_over_time(homelab_backup_last_success_timestamp_seconds[60d]))"
    return Panel(
        "Last verified backup",
        "s",
        "Time since the last verified backup of the chats. No value: there was none.",
        "BackupTooOld",
        {"": f"time() - {good}"},
        high(1.5 * 3600 * hours, 2 * 3600 * hours),
        shape="stat",
    )


def board(disks: str, backup_hours: int | None) -> Board:
    """Return the dashboard; `disks` is a PromQL regular expression of mount points."""
    on_disk = f'mountpoint=~"{disks}"'
    well = (
        Panel(
            "Data disk in use",
            "percentunit",
            "Share of the data disk that is taken. When it is full, models cannot be pulled and "
            "chats cannot be saved. No value: it is not mounted.",
            "DataDiskFull",
            {"{{mountpoint}}": "1 - mountpoint:node_filesystem_free:ratio"},
            high(0.75, 0.9),
            shape="stat",
        ),
        Panel(
            "Memory free",
            "percentunit",
            "Share of the fullest node's memory that is free or can be freed at once.",
            "OutOfMemoryKill",
            {"": "min(node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)"},
            low(0.05, 0.1),
            below="red",
            shape="stat",
        ),
        Panel(
            "Pods not running",
            "short",
            "Pods that wait or failed, less failed ones of Jobs, which stay. "
            "After an install some wait for their images.",
            "RestartLoop",
            {
                "": f'sum(kube_pod_status_phase{{{OURS}, phase=~"Pending|Unknown"}}'
                f' or kube_pod_status_phase{{{OURS}, phase="Failed"}}'
                ' unless on (namespace, pod) kube_pod_owner{owner_kind="Job"})'
            },
            high(1, 3),
            shape="stat",
        ),
        Panel(
            "Killed for memory",
            "short",
            "Processes that the kernel killed in the last day because memory ran out.",
            "OutOfMemoryKill",
            {"": "sum(increase(node_vmstat_oom_kill[1d]))"},
            high(1, 2),
            shape="stat",
        ),
    )
    disk = (
        Panel(
            "Data disk, free",
            "bytes",
            "What is free, and what would be free in four days if it went on as in the last day.",
            "DataDiskFilling",
            {
                "{{mountpoint}}": f"node_filesystem_avail_bytes{{{on_disk}}}",
                "{{mountpoint}}, in four days": "clamp_min(predict_linear("
                f"node_filesystem_avail_bytes{{{on_disk}}}[1d], 4 * 86400), 0)",
            },
        ),
        Panel(
            "Volumes, in use",
            "bytes",
            "What programs know about their volumes: the models' sizes, which count shared layers "
            "twice, and Prometheus' data. Nobody measures Open WebUI's; run `du` on the server.",
            "DataDiskFull",
            {"models": "sum(ollama_model_size_bytes) or vector(0)", "Prometheus": TSDB},
        ),
    )
    memory = (
        Panel(
            "Memory against plan",
            "bytes",
            "What the node has and uses, and what all running containers request and are limited "
            "to. Limits may add up to more than there is; requests may not.",
            "OutOfMemoryKill",
            {
                "there is": "sum(node_memory_MemTotal_bytes)",
                "in use": "sum(node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)",
                "requested": f"sum({planned('requests')})",
                "limited to": f"sum({planned('limits')})",
            },
        ),
    )
    pods = (
        Panel(
            "Restarts by container",
            "short",
            "Container restarts in the hour before.",
            "RestartLoop",
            {"{{namespace}} {{container}}": RESTARTS},
            high(1, 3),
        ),
    )
    rows = {
        "Health": well,
        "Data disk": disk,
        **({"Backups": (last_backup(backup_hours),)} if backup_hours else {}),
        "Memory": memory,
        "Pods": pods,
    }
    return Board("server", "Server", rows, time="7d")
