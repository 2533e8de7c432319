// A container runtime's side of CNI: one call of libcni, as ordered on standard input, its outcome as JSON on standard
// output. cnitool is libcni too, but can give GC no list, has no cache of its own choice and shows no error codes.
//
//	runtime VERB    add, check, del, gc, status, validate, list or cached
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// Nothing takes as long; a plugin that hangs is killed as a runtime's deadline kills it.
const patience = 60 * time.Second

// What a runtime knows when it calls.
type order struct {
	// File of the list.
	Conf string `json:"conf"`
	// Directories of the plugins.
	Plugins []string `json:"plugins"`
	// Directory of libcni's cache.
	Cache string `json:"cache"`
	// The attachment.
	Container string      `json:"container"`
	Netns     string      `json:"netns"`
	Interface string      `json:"interface"`
	Args      [][2]string `json:"args"`
	// What goes to plugins that ask for it.
	Capabilities map[string]interface{} `json:"capabilities"`
	// DEL and CHECK with the configuration of ADD, out of the cache, as CRI-O does; containerd takes what is on the disk.
	FromCache bool `json:"fromCache"`
	// GC with a list, which may be null; without, plugins are given no key at all.
	Listed bool                 `json:"listed"`
	Valid  []types.GCAttachment `json:"valid"`
}

// What came of it.
type outcome struct {
	Result interface{} `json:"result,omitempty"`
	Error  *failure    `json:"error,omitempty"`
}

type failure struct {
	// Everything, as a runtime logs it.
	Text string `json:"text"`
	// Of the plugin's error document; 0 when libcni itself refused.
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
}

// A list as libcni reads it.
type listed struct {
	Name         string   `json:"name"`
	Version      string   `json:"cniVersion"`
	DisableCheck bool     `json:"disableCheck"`
	DisableGC    bool     `json:"disableGC"`
	OnlyInlined  bool     `json:"loadOnlyInlinedPlugins"`
	Plugins      []string `json:"plugins"`
}

// What the cache has of an attachment.
type cached struct {
	Config string       `json:"config"`
	Result types.Result `json:"result"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "runtime VERB <ORDER")
		os.Exit(2)
	}
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		fmt.Fprintln(os.Stderr, "order:", err)
		os.Exit(2)
	}
	result, err := call(os.Args[1], &o)
	said := outcome{Result: result}
	if err != nil {
		said.Error = &failure{Text: err.Error()}
		var plugin *types.Error
		if errors.As(err, &plugin) {
			said.Error.Code, said.Error.Msg, said.Error.Details = plugin.Code, plugin.Msg, plugin.Details
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(&said); err != nil {
		fmt.Fprintln(os.Stderr, "outcome:", err)
		os.Exit(2)
	}
}

func call(verb string, o *order) (interface{}, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cni := libcni.NewCNIConfigWithCacheDir(o.Plugins, o.Cache, nil)
	list, err := libcni.NetworkConfFromFile(o.Conf)
	if err != nil {
		return nil, err
	}
	rt := &libcni.RuntimeConf{
		ContainerID:    o.Container,
		NetNS:          o.Netns,
		IfName:         o.Interface,
		Args:           o.Args,
		CapabilityArgs: o.Capabilities,
	}
	if o.FromCache {
		config, old, err := cni.GetNetworkListCachedConfig(list, rt)
		if err != nil {
			return nil, err
		}
		if config == nil {
			return nil, errors.New("nothing of this attachment in the cache")
		}
		if list, err = libcni.NetworkConfFromBytes(config); err != nil {
			return nil, err
		}
		rt = old
	}
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return nil, err
		}
		return result, nil
	case "check":
		return nil, cni.CheckNetworkList(ctx, list, rt)
	case "del":
		return nil, cni.DelNetworkList(ctx, list, rt)
	case "gc":
		if !o.Listed {
			return nil, cni.GCNetworkList(ctx, list, nil)
		}
		return nil, cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: o.Valid})
	case "status":
		return nil, cni.GetStatusNetworkList(ctx, list)
	case "validate":
		return cni.ValidateNetworkList(ctx, list)
	case "list":
		said := listed{list.Name, list.CNIVersion, list.DisableCheck, list.DisableGC, list.LoadOnlyInlinedPlugins, nil}
		for _, plugin := range list.Plugins {
			said.Plugins = append(said.Plugins, plugin.Network.Type)
		}
		return said, nil
	case "cached":
		config, _, err := cni.GetNetworkListCachedConfig(list, rt)
		if err != nil || config == nil {
			return nil, err
		}
		result, err := cni.GetNetworkListCachedResult(list, rt)
		return cached{string(config), result}, err
	}
	return nil, fmt.Errorf("no such verb: %s", verb)
}
