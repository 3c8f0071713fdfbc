//go:build tools

// Package tools names the tool that tries what the chart's templates make.
package tools

import _ "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"
