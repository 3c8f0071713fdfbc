// Package tools names the modules whose custom resource definitions the chart is tried against.
package tools
