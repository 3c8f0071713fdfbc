//go:build tools

// Package tools names the DNS server of the test cluster.
package tools

import _ "github.com/coredns/coredns"
