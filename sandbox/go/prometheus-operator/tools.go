//go:build tools

// Package tools keeps the Prometheus operator and its config reloader pinned in go.mod.
package tools

import (
	_ "github.com/prometheus-operator/prometheus-operator/cmd/operator"
	_ "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader"
)
