//go:build tools

package main

// Keeps the CLI pinned in go.mod beside the provider, which shares what is compiled with it.
import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
