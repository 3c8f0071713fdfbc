//go:build tools

// Package tools names the Helm 3 client, which users still run beside Helm 4.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
