//go:build tools

// Package tools keeps MetalLB's controller and speaker pinned in go.mod.
package tools

import (
	_ "go.universe.tf/metallb/controller"
	_ "go.universe.tf/metallb/speaker"
)
