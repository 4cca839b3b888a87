//go:build tools

// Package tools keeps Ollama pinned in go.mod.
package tools

import _ "github.com/ollama/ollama"
