//go:build tools

// Package tools names what build.sh builds beside our own mains, so that go.mod holds what it needs.
package tools

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
)
