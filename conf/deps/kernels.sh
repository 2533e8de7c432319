# Group `kernels`: qemu, and Debian's cloud kernels of the series in KERNELS, unpacked into the cache and installed nowhere.
# Sourced by deps.sh, which calls the two functions.

# Where the packages of a series are: its name, and the suites that have it.
kernel_suites() {
    case $1 in
        5.10) echo 'bullseye bullseye-security' ;;
        6.1) echo 'bookworm bookworm-security' ;;
        6.12) echo 'trixie trixie-security' ;;
        *) echo trixie-backports ;;
    esac
}

kernels_packages() {
    need qemu-system-x86 has_command qemu-system-x86_64
    need busybox-static has_file /bin/busybox
    need kmod has_command depmod
    need binutils has_command strip
    need xz-utils has_command xz
    need iproute2 has_command ip
    # The keys of the suites that are not this machine's.
    need debian-archive-keyring has_file /usr/share/keyrings/debian-archive-keyring.gpg
}

kernels_fetch() {
    local series
    for series in $KERNELS; do
        if [ -f "$KERNELS_ROOT/$series/release" ]; then
            found kernel "$(cat "$KERNELS_ROOT/$series/release")"
        else
            kernel_fetch "$series"
        fi
    done
}

# apt with lists of its own: the machine's stay as they are.
kernel_apt() {
    local tool=$1 root=$KERNELS_ROOT/apt
    shift
    "$tool" -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$root/lists" \
        -o Dir::Cache="$root/cache" -o Dir::State::status="$root/status" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

kernel_fetch() {
    local series=$1 started=$SECONDS root=$KERNELS_ROOT/apt dir=$KERNELS_ROOT/$series.new suite archive place image part parts release
    rm -rf "$root" "$dir"
    mkdir -p "$root/lists/partial" "$root/cache/archives/partial" "$dir/packages"
    : >"$root/status"
    for suite in $(kernel_suites "$series"); do
        archive=debian
        if [[ $suite == *-security ]]; then archive=debian-security; fi
        # From where this machine's own packages come.
        place=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 "/$archive/*\$") ||
            fail "kernel $series: apt has no source called $archive"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $place $suite main"
    done >"$root/sources.list"
    run "kernel $series" kernel_apt apt-get -qq update
    # The newest of the series: older ones leave the archive.
    image=$(kernel_apt apt-cache search --names-only "^linux-image-${series//./\\.}\.[^ ]*-cloud-amd64\$" |
        cut -d' ' -f1 | sort -V | tail -n 1)
    [ -n "$image" ] || fail "kernel $series: no linux-image-$series…-cloud-amd64 in $(kernel_suites "$series")"
    (cd "$dir/packages" && run "kernel $series" kernel_apt apt-get -qq download "$image")
    # Newer ones come in parts.
    parts=$(kernel_apt apt-cache depends "$image")
    for part in linux-binary linux-modules linux-base; do
        if [[ $parts == *"Depends: ${image/linux-image/$part}"* ]]; then
            (cd "$dir/packages" && run "kernel $series" kernel_apt apt-get -qq download "${image/linux-image/$part}")
        fi
    done
    for part in "$dir"/packages/*.deb; do run "kernel $series" dpkg-deb -x "$part" "$dir/root"; done
    release=${image#linux-image-}
    # Where they lie differs from release to release.
    for part in vmlinuz config; do
        run "kernel $series" find "$dir/root" -type f \( -name "$part-$release" -o -path "*/modules/$release/$part" \) -exec mv {} "$dir/$part" \;
    done
    run "kernel $series" find "$dir/root" -path "*/modules/$release" -prune -exec mv {} "$dir/modules" \;
    [ -f "$dir/vmlinuz" ] && [ -n "$(find "$dir/modules" -name 'veth.ko*')" ] || fail "kernel $series: no vmlinuz or no modules in its packages"
    ls "$dir/packages" | sed -n 's/^linux-image-[^_]*_\(.*\)_amd64.deb$/\1/p' | sed 's/%3a/:/' >"$dir/version"
    rm -rf "$dir/packages" "$dir/root" "$root"
    echo "$release" >"$dir/release"
    rm -rf "${KERNELS_ROOT:?}/$series"
    mv "$dir" "$KERNELS_ROOT/$series"
    say kernel "$release, unpacked ($((SECONDS - started)) s)"
}
