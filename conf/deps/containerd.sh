# What a machine of tests/src/machine runs: containerd of two versions, runc, and a client of the Container Runtime Interface. Sourced
# by deps.sh for the group `containerd`, which has the group `test` in it.

# Debian's containerd and runc are taken out of their packages, not installed: two versions have to lie beside each other, and
# nothing of this machine is to run one.
if [ -x "$CONTAINERD_DEBIAN_ROOT/containerd" ] && [ -x "$CONTAINERD_DEBIAN_ROOT/runc" ]; then
    found containerd "$CONTAINERD_DEBIAN and runc, Debian's"
else
    command -v apt-get >/dev/null || fail "containerd: Debian's $CONTAINERD_DEBIAN comes from its packages, and this is no Debian"
    started=$SECONDS
    scratch=$(mktemp -d)
    # apt-get downloads to where it is, and only what is newest. The lists may be old or absent: try what is there, then fetch them.
    download() { (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root containerd runc); }
    download >"$log" 2>&1 || { apt-get update -qq && download; } >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "failed: apt-get download containerd runc"; }
    for package in "$scratch"/*.deb; do run containerd dpkg-deb -x "$package" "$scratch/tree"; done
    version=$("$scratch/tree/usr/bin/containerd" --version | awk '{ print $3 }')
    [[ "$version" == "$CONTAINERD_DEBIAN".* ]] || fail "containerd: Debian's is $version here, and $CONTAINERD_DEBIAN is wanted"
    mkdir -p "$CONTAINERD_DEBIAN_ROOT"
    cp "$scratch"/tree/usr/bin/{containerd-shim-runc-v2,ctr} "$scratch/tree/usr/sbin/runc" "$scratch/tree/usr/bin/containerd" "$CONTAINERD_DEBIAN_ROOT"
    rm -rf "$scratch"
    say containerd "$version and runc from Debian's packages ($((SECONDS - started)) s)"
fi

# go_module DIR MODULE VERSION: a module of ours that asks for one of others at its version; what that one replaces or excludes would be
# an error for `go install`.
go_module() {
    mkdir -p "$1"
    printf 'module shunt-cni.io/tools\n\ngo %s\n\nrequire %s v%s\n' "$GO_MIN" "$2" "$3" >"$1/go.mod"
}
# go_build WHAT DIR OUT ARGUMENT...: in a module of ours
go_build() {
    local what=$1 dir=$2 out=$3
    shift 3
    run "$what" env -C "$dir" CGO_ENABLED=0 GOFLAGS='-mod=mod -trimpath' GOTOOLCHAIN=local "$GO" build -o "$out" "$@"
}
module=github.com/containerd/containerd/v2
if [ -x "$CONTAINERD_ROOT/ctr" ]; then
    found containerd "$CONTAINERD_VERSION"
else
    need_go
    started=$SECONDS
    go_module "$CONTAINERD_ROOT/module" $module "$CONTAINERD_VERSION"
    go_build containerd "$CONTAINERD_ROOT/module" "$CONTAINERD_ROOT.new/" -tags 'no_btrfs no_zfs no_devmapper' \
        -ldflags "-s -w -X $module/version.Version=$CONTAINERD_VERSION" $module/cmd/{containerd,containerd-shim-runc-v2,ctr}
    mv "$CONTAINERD_ROOT.new"/* "$CONTAINERD_ROOT"
    rmdir "$CONTAINERD_ROOT.new"
    say containerd "$CONTAINERD_VERSION, built ($((SECONDS - started)) s)"
fi
if cmp -s tests/cri/main.go "$CONTAINERD_ROOT/module/main.go" && [ -x "$CONTAINERD_ROOT/cri" ]; then
    found cri "a client, of $CONTAINERD_VERSION's modules"
else
    need_go
    started=$SECONDS
    go_module "$CONTAINERD_ROOT/module" $module "$CONTAINERD_VERSION"
    cp tests/cri/main.go "$CONTAINERD_ROOT/module/main.go"
    go_build cri "$CONTAINERD_ROOT/module" "$CONTAINERD_ROOT/cri" -ldflags '-s -w' .
    say cri "a client, of $CONTAINERD_VERSION's modules, built ($((SECONDS - started)) s)"
fi
# With cgo, because it is C that enters the namespaces; the C library it is linked with is this machine's, as all of it is there inside.
if [ -x "$RUNC_ROOT/runc" ]; then
    found runc "$RUNC_VERSION"
else
    need_go
    started=$SECONDS
    module=github.com/opencontainers/runc
    go_module "$RUNC_ROOT/module" $module "$RUNC_VERSION"
    run runc env -C "$RUNC_ROOT/module" CGO_ENABLED=1 GOFLAGS='-mod=mod -trimpath' GOTOOLCHAIN=local "$GO" build -o "$RUNC_ROOT/" -tags seccomp \
        -ldflags "-s -w -X main.version=$RUNC_VERSION" $module
    say runc "$RUNC_VERSION, built ($((SECONDS - started)) s)"
fi
mkdir -p target/tools
ln -sfn "$CONTAINERD_ROOT" target/tools/containerd-2
ln -sfn "$CONTAINERD_DEBIAN_ROOT" target/tools/containerd-1.6
ln -sfn "$CONTAINERD_DEBIAN_ROOT/runc" target/tools/runc-debian
ln -sfn "$RUNC_ROOT/runc" target/tools/runc
ln -sfn "$CONTAINERD_ROOT/cri" target/tools/cri
