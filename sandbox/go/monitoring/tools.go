//go:build tools

// Package tools keeps Prometheus, promtool and node_exporter pinned in go.mod.
package tools

import (
	_ "github.com/prometheus/node_exporter"
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
