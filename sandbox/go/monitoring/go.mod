module homelab.example/sandbox/monitoring

go 1.26.7

require (
	github.com/prometheus/node_exporter v1.12.1
	github.com/prometheus/prometheus v0.316.0
)
