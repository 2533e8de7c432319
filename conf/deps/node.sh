# A Kubernetes node for tests/node: etcd, the control plane, the kubelet, kubectl, from their Go modules at one version.
# Sourced by deps.sh, last, for the group `node`, which has the group `containerd` in it.

node_modules=$NODE_ROOT/module
node_cgroups=github.com/opencontainers/cgroups
node_missing=
for program in $NODE_PROGRAMS; do [ -x "$NODE_ROOT/bin/$program" ] || node_missing=1; done

# k8s.io/kubernetes asks for its own libraries at v0.0.0, which only its own repository can satisfy: a module of ours
# says which published version each one is.
write_node_module() {
    local origin=$1 library
    mkdir -p "$node_modules"
    {
        printf 'module node\n\ngo %s\n\n' "$(sed -n 's/^go //p' "$origin/go.mod")"
        printf 'require k8s.io/kubernetes v%s\n\nreplace (\n' "$KUBERNETES_VERSION"
        sed -n 's/^\t\(k8s\.io\/[a-z-]*\) v0\.0\.0\( .*\)\?$/\1/p' "$origin/go.mod" | while read -r library; do
            printf '\t%s => %s v0.%s\n' "$library" "$library" "${KUBERNETES_VERSION#1.}"
        done
        printf ')\n'
    } >"$node_modules/go.mod"
    # The sums are those Kubernetes itself was released with; what it has in its own tree is added from Go's database.
    cp "$origin/go.sum" "$node_modules/go.sum"
    chmod u+w "$node_modules/go.sum"
}

# The tests' cgroup2 tree has no controllers, because this may be a container or a host that gives them to v1. The kubelet
# then dies at its second start over `cpu.weight`: a limit whose file does not exist, in a cgroup that does, is passed over.
patch_cgroups() {
    local origin=$1 copy=$node_modules/cgroups
    rm -rf "$copy"
    cp -r "$origin" "$copy"
    chmod -R u+w "$copy"
    sed -i '/^func WriteFile(/,/^}/ s|^\tif err != nil {$|\tif errors.Is(err, os.ErrNotExist) {\n\t\tif _, missing := os.Stat(dir); missing == nil {\n\t\t\treturn nil\n\t\t}\n\t}\n&|' \
        "$copy/file.go"
    [ "$(diff "$origin/file.go" "$copy/file.go" | grep -c '^>')" = 5 ] || fail "node: $origin/file.go is not the file the patch was made for"
    printf '\nreplace %s => ./cgroups\n' "$node_cgroups" >>"$node_modules/go.mod"
}

module_dir() { (cd "$node_modules" && "$GO" list -m -mod=mod -f '{{.Dir}}' "$1"); }

if [ -z "$node_missing" ]; then
    found node "Kubernetes $KUBERNETES_VERSION, its etcd"
else
    need_go
    started=$SECONDS
    # It takes minutes: who wants something else, or builds, must not wait for it.
    mkdir -p "$NODE_ROOT"
    exec 8>"$NODE_ROOT/.lock"
    flock 8
    flock -u 9
    log=$NODE_ROOT/build.log
    say node "building Kubernetes $KUBERNETES_VERSION: some eight minutes on two cores"
    mkdir -p "$node_modules" "$NODE_ROOT/bin"
    printf 'module node\n' >"$node_modules/go.mod"
    run node env -C "$node_modules" GOTOOLCHAIN=local "$GO" mod download "k8s.io/kubernetes@v$KUBERNETES_VERSION"
    write_node_module "$("$GO" env GOMODCACHE)/k8s.io/kubernetes@v$KUBERNETES_VERSION"
    # In two steps, because only the first may change go.mod: what is built is what it then says.
    run node env -C "$node_modules" GOTOOLCHAIN=local "$GO" list -mod=mod -deps $NODE_PACKAGES
    run node env -C "$node_modules" GOTOOLCHAIN=local "$GO" mod download $node_cgroups
    patch_cgroups "$(module_dir $node_cgroups)"
    stamp="-X k8s.io/component-base/version.gitVersion=v$KUBERNETES_VERSION -X k8s.io/client-go/pkg/version.gitVersion=v$KUBERNETES_VERSION"
    stamp+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES_VERSION")"
    for package in $NODE_PACKAGES; do
        case $package in */etcd/*) program=etcd ;; *) program=${package##*/} ;; esac
        [ ! -x "$NODE_ROOT/bin/$program" ] || continue
        step=$SECONDS
        run node env -C "$node_modules" CGO_ENABLED=0 GOTOOLCHAIN=local nice "$GO" build -p 2 -trimpath \
            -ldflags "-s -w $stamp" -o "$NODE_ROOT/bin/$program.new" "$package"
        mv "$NODE_ROOT/bin/$program.new" "$NODE_ROOT/bin/$program"
        say node "$program, built ($((SECONDS - step)) s)"
    done
    say node "Kubernetes $KUBERNETES_VERSION, its etcd, built ($((SECONDS - started)) s)"
fi
mkdir -p target/tools
for program in $NODE_PROGRAMS; do ln -sfn "$NODE_ROOT/bin/$program" target/tools/"$program"; done
