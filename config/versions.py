"""Pinned images and charts; Renovate reads the comment above each."""

# The digest is the one that the Umbrel app store pins; confirm it once on the first pull.
# renovate: datasource=docker depName=ollama/ollama
OLLAMA_IMAGE = (
    "ollama/ollama:0.40.16@sha256:910d0d8107b538fb0894e63163eb195de0cc7aefcbc666dc62d3b18f71124592"
)

# Tag only: the digest of this image is not known.
# renovate: datasource=docker depName=ghcr.io/open-webui/open-webui
OPEN_WEBUI_IMAGE = "ghcr.io/open-webui/open-webui:v0.12.4"

# The same image, for its Python, aiohttp and OpenTelemetry SDK. Pinned separately, so that an
# upgrade of Open WebUI does not restart Ollama.
# renovate: datasource=docker depName=gateway packageName=ghcr.io/open-webui/open-webui
GATEWAY_IMAGE = "ghcr.io/open-webui/open-webui:v0.12.4"

# Tag only, for the same reason.
# renovate: datasource=docker depName=restic/restic
RESTIC_IMAGE = "restic/restic:0.19.1"

# renovate: datasource=docker depName=ghcr.io/prometheus-community/charts/kube-prometheus-stack
KUBE_PROMETHEUS_STACK = "88.5.3"

# Not 0.16.0: its chart does not render correctly with default values.
# renovate: datasource=helm depName=metallb registryUrl=https://metallb.github.io/metallb
METALLB = "0.16.1"
