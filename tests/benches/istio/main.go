// Istio's own tool that writes the rules of a pod, as `istio-init` and its CNI agent call it. Built here because it comes as a package
// only.
package main

import (
	"os"

	"istio.io/istio/pkg/log"
	"istio.io/istio/tools/istio-iptables/pkg/cmd"
)

func main() {
	if cmd.GetCommand(log.DefaultOptions()).Execute() != nil {
		os.Exit(1)
	}
}
