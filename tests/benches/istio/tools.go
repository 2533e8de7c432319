//go:build tools

// Keeps in go.mod what Istio's CNI plugin needs; it is built from its module as it is.
package main

import _ "istio.io/istio/cni/cmd/istio-cni"
