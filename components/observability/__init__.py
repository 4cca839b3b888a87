"""Prometheus, Alertmanager and Grafana: their component, dashboards, alerts and Helm values."""
