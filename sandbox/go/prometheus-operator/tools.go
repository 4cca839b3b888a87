//go:build tools

// Package tools keeps the Prometheus operator pinned in go.mod.
package tools

import _ "github.com/prometheus-operator/prometheus-operator/cmd/operator"
