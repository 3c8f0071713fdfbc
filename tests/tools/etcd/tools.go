//go:build tools

// Package tools names the etcd server that the tests build and run.
package tools

import _ "go.etcd.io/etcd/server/v3"
