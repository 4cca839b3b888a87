//go:build tools

package main

// Keeps KWOK pinned in go.mod beside the control plane.
import _ "sigs.k8s.io/kwok/cmd/kwok"
