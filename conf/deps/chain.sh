# Sourced by deps.sh for the group `chain`: what tests/chain needs beyond the demo's tools. More reference plugins, and
# the runtime: a program of ours over libcni, built anew when its source changes.

chain_root=$SHUNT_CACHE/runtime-$CNI_VERSION-$(cat tests/chain/runtime/{main.go,go.mod,go.sum} | sha256sum | cut -c 1-12)

missing=
for tool in $CHAIN_TOOLS; do [ -x "$CNI_ROOT/$tool" ] || missing=1; done
if [ -z "$missing" ]; then
    found chain "reference plugins $PLUGINS_VERSION: $CHAIN_TOOLS"
else
    need_go
    started=$SECONDS
    plugins=github.com/containernetworking/plugins/plugins
    go_install chain "$CNI_ROOT" $plugins/{main/macvlan,meta/{bandwidth,firewall,sbr,vrf}}@"v$PLUGINS_VERSION"
    say chain "reference plugins $PLUGINS_VERSION: $CHAIN_TOOLS, built ($((SECONDS - started)) s)"
fi
if [ -x "$chain_root/runtime" ]; then
    found runtime "libcni $CNI_VERSION"
else
    need_go
    started=$SECONDS
    run runtime env CGO_ENABLED=0 GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOTOOLCHAIN=local \
        "$GO" -C tests/chain/runtime build -ldflags='-s -w' -o "$chain_root/runtime" .
    say runtime "libcni $CNI_VERSION, built ($((SECONDS - started)) s)"
fi
for tool in $CHAIN_TOOLS; do ln -sfn "$CNI_ROOT/$tool" target/tools/"$tool"; done
ln -sfn "$chain_root/runtime" target/tools/runtime
