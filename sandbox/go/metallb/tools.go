//go:build tools

// Package tools keeps the MetalLB controller pinned in go.mod.
package tools

import _ "go.universe.tf/metallb/controller"
