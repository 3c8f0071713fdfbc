//go:build tools

// Package tools names the Helm client that the tests build and run.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
