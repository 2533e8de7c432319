# Sourced by deps.sh for the group `bench`: what Shunt is measured beside. Istio's own tool that writes a pod's rules and its CNI plugin,
# from its module, and a load generator that users have.

istio_version=$(sed -n 's/^require istio.io\/istio //p' tests/benches/istio/go.mod)
istio_root=$SHUNT_CACHE/istio-$(cat tests/benches/istio/{main.go,go.mod,go.sum} | sha256sum | cut -c 1-12)
FORTIO_ROOT=$SHUNT_CACHE/fortio-$FORTIO_VERSION

if [ -x "$istio_root/istio-cni" ]; then
    found istio "$istio_version: istio-iptables, istio-cni"
else
    # Its module asks for this one.
    GO_MIN=1.26 need_go
    started=$SECONDS
    for program in istio-iptables:. istio-cni:istio.io/istio/cni/cmd/istio-cni; do
        run istio env CGO_ENABLED=0 GOFLAGS='-trimpath -mod=readonly -buildvcs=false' GOTOOLCHAIN=local \
            "$GO" -C tests/benches/istio build -ldflags='-s -w' -o "$istio_root/${program%%:*}" "${program#*:}"
    done
    say istio "$istio_version: istio-iptables, istio-cni, built ($((SECONDS - started)) s)"
fi
if [ -x "$FORTIO_ROOT/fortio" ]; then
    found fortio "$FORTIO_VERSION"
else
    need_go
    started=$SECONDS
    go_install fortio "$FORTIO_ROOT" "fortio.org/fortio@v$FORTIO_VERSION"
    say fortio "$FORTIO_VERSION, built ($((SECONDS - started)) s)"
fi
for tool in istio-iptables istio-cni; do ln -sfn "$istio_root/$tool" target/tools/"$tool"; done
ln -sfn "$FORTIO_ROOT/fortio" target/tools/fortio
