"""Prometheus, Alertmanager and Grafana: their component, dashboards, alerts and Helm values."""

from components.observability.notify import Notify
from components.observability.stack import CHART_VALUES, PROMETHEUS_CLAIM, ObservabilityStack

__all__ = ["CHART_VALUES", "PROMETHEUS_CLAIM", "Notify", "ObservabilityStack"]
