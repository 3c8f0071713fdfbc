//go:build tools

// Package tools names the tool that tries the chart's alerts.
package tools

import _ "github.com/prometheus/prometheus/cmd/promtool"
