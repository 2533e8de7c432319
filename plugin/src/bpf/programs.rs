//! The shared programs of a node: loaded once by whoever comes first, pinned, attached to the cgroup all pods live under.
//!
//! Loading is a transaction: everything is pinned in a temporary directory, and one rename makes it the object's directory.
//! A later ADD opens pins; it parses no BTF and loads no shared program. It does ask each shared link what it is attached to:
//! a link whose cgroup was removed is an empty shell, and pods under a new cgroup of the same name would run bare.

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aya::maps::ProgramArray;
use aya::programs::{CgroupSockAddr, CgroupSockopt, Program, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_obj::generated::bpf_attach_type;
use shunt_abi::names::{self, place};

use super::pins::{Layout, TEMPORARY, children, remove_tree};
use super::{object, others, sys};
use crate::cgroup::Cgroups;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::lock::Lock;

/// Loads and pins the programs unless they are, and attaches them so that they cover `pods`: the cgroup all pods live under.
/// `None` leaves attaching to a later caller who knows where.
pub fn ensure(bpf_dir: &Path, locks: &Lock<'_>, cgroups: &Cgroups, pods: Option<&Path>) -> Outcome<Layout> {
    let layout = Layout::new(bpf_dir, object::HASH);
    if layout.root().is_dir()
        && pods.is_none_or(|pods| uncovered(&layout, cgroups, pods).is_ok_and(|list| list.is_empty()))
    {
        return Ok(layout);
    }
    let _held = locks.take("load")?;
    mount_bpffs(bpf_dir)?;
    if !layout.root().is_dir() {
        discard_half_loaded(bpf_dir)?;
        load(&layout, bpf_dir)?;
    }
    if let Some(pods) = pods {
        attach(&layout, cgroups, pods)?;
    }
    Ok(layout)
}

/// Makes sure that programs already pinned under `layout` cover `pods`.
pub fn cover(layout: &Layout, locks: &Lock<'_>, cgroups: &Cgroups, pods: &Path) -> Outcome<()> {
    if uncovered(layout, cgroups, pods)?.is_empty() {
        return Ok(());
    }
    let _held = locks.take("load")?;
    attach(layout, cgroups, pods)
}

/// Names of the shared programs that do not run for sockets made under `pods`.
pub fn missing(layout: &Layout, cgroups: &Cgroups, pods: &Path) -> Outcome<Vec<&'static str>> {
    Ok(uncovered(layout, cgroups, pods)?.into_iter().map(|(name, _)| name).collect())
}

/// The programs of incoming connections, and the places in which the pods' own ones look for them.
const PLACES: [(u32, &str); place::COUNT as usize] =
    [(place::SELECT, names::SELECT), (place::TELL, names::TELL)];

/// What is missing of an object that was whole when it got its name: somebody has removed a pin. In words.
///
/// Most of it lives on in the programs, if out of reach of an ADD. One thing does not: the kernel empties a map of programs when its
/// last pin goes, and every pod of the object is closed then.
pub fn damage(layout: &Layout) -> Outcome<Option<String>> {
    let maps = names::MAPS.iter().map(|name| layout.map(name));
    let programs = names::SHARED_PROGRAMS.iter().chain([&names::GETSOCKOPT]).map(|name| layout.program(name));
    for pin in maps.chain(programs) {
        if !pin.try_exists().tried(|| format!("look for {}", pin.display()))? {
            return Ok(Some(format!("pin {} is gone", pin.display())));
        }
    }
    let path = layout.map(names::LOOKUPS);
    let map = sys::open(&path).tried(|| format!("open pinned map {}", path.display()))?;
    for (place, name) in PLACES {
        if !sys::is_filled(sys::fd(&map), place).tried(|| format!("look for {name} in {}", path.display()))? {
            return Ok(Some(format!("program {name} is gone from the pinned map {}", path.display())));
        }
    }
    Ok(None)
}

/// Shared programs that do not run for sockets made under `pods`, and whether any of them runs elsewhere.
fn uncovered(layout: &Layout, cgroups: &Cgroups, pods: &Path) -> Outcome<Vec<(&'static str, bool)>> {
    let chain = cgroups.ids_to_root(pods)?;
    let mut missing = Vec::new();
    for name in names::SHARED_PROGRAMS {
        match attached_to(&layout.link(name))? {
            Some(id) if chain.contains(&id) => {}
            Some(id) => missing.push((name, id != 0)),
            None => missing.push((name, false)),
        }
    }
    Ok(missing)
}

/// Cgroup id of a pinned link; 0 if the cgroup is gone, `None` if there is no such pin.
pub fn attached_to(pin: &Path) -> Outcome<Option<u64>> {
    Ok(link(pin)?.map(|info| info.cgroup()))
}

/// What the kernel says of a pinned link; `None` if there is no such pin.
pub(super) fn link(pin: &Path) -> Outcome<Option<sys::LinkInfo>> {
    let link = match sys::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).tried(|| format!("open pinned link {}", pin.display())),
    };
    sys::link_info(sys::fd(&link)).tried(|| format!("ask link {}", pin.display())).map(Some)
}

/// Attaches what does not cover `pods`. Programs that run on another branch of the hierarchy move to its root, which covers
/// both; the new link is pinned over the old one, so that there is no moment without either.
pub(crate) fn attach(layout: &Layout, cgroups: &Cgroups, pods: &Path) -> Outcome<()> {
    let missing = uncovered(layout, cgroups, pods)?;
    let elsewhere = missing.iter().any(|(_, alive)| *alive);
    let target = if elsewhere { cgroups.root() } else { pods };
    if missing.is_empty() {
        return Ok(());
    }
    let cgroup = File::open(target).tried(|| format!("open cgroup {}", target.display()))?;
    for (name, _) in missing {
        if let Some(found) = others::barrier(cgroups, target, name)? {
            return Err(found);
        }
        let attach = |program: BorrowedFd<'_>| first_of_all(program, sys::fd(&cgroup), attach_type(name));
        pin_link(layout, name, attach, &layout.link(name), target)?;
    }
    Ok(())
}

/// Attaches a shared program so that it sees a connection as the app made it: before programs of others on the same cgroup, where
/// the kernel has an order. Where it has none ours runs last there, and ADD says so.
fn first_of_all(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    if !sys::programs_on(cgroup, kind)?.ids.is_empty() {
        match sys::attach_first(program, cgroup, kind) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            attached => return attached,
        }
    }
    sys::attach(program, cgroup, kind)
}

/// Attaches a pinned program to a cgroup and pins the link at `pin`, over what is there.
fn pin_link(
    layout: &Layout,
    name: &str,
    attach: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    pin: &Path,
    target: &Path,
) -> Outcome<()> {
    let program = layout.program(name);
    let program_fd = sys::open(&program).tried(|| format!("open pinned program {}", program.display()))?;
    let link = attach(sys::fd(&program_fd))
        .tried(|| format!("attach {} to cgroup {}", program.display(), target.display()))?;
    let mut new = pin.as_os_str().to_owned();
    new.push("-new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).tried(|| format!("remove stale pin {}", new.display()));
        }
        _ => {}
    }
    sys::pin(sys::fd(&link), &new).tried(|| format!("pin link {}", new.display()))?;
    fs::rename(&new, pin).tried(|| format!("rename pin {} into place", new.display()))
}

/// The `getsockopt` program on a pod's own cgroup, or on the shared one where the pod has none.
pub fn attach_getsockopt(layout: &Layout, cgroups: &Cgroups, cgroup: &Path, pin: &Path) -> Outcome<()> {
    let file = File::open(cgroup).tried(|| format!("open cgroup {}", cgroup.display()))?;
    if let Some(id) = attached_to(pin)?
        && id == cgroup_id(&file)?
    {
        return Ok(());
    }
    // Last on its cgroup: what it answers, nobody changes.
    let attach =
        |program: BorrowedFd<'_>| sys::attach(program, sys::fd(&file), attach_type(names::GETSOCKOPT));
    match others::barrier(cgroups, cgroup, names::GETSOCKOPT)? {
        Some(found) => Err(found),
        None => pin_link(layout, names::GETSOCKOPT, attach, pin, cgroup),
    }
}

/// A cgroup's id is the inode number of its directory.
pub fn cgroup_id(directory: &File) -> Outcome<u64> {
    Ok(directory.metadata().tried(|| "ask the cgroup's directory for its inode")?.ino())
}

/// The hook of a shared program, and of `getsockopt`.
pub(super) fn attach_type(program: &str) -> bpf_attach_type {
    match program {
        names::CONNECT4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        names::CONNECT6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        names::SENDMSG4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
        names::SENDMSG6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        names::RECVMSG4 => bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG,
        names::RECVMSG6 => bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG,
        names::GETPEERNAME4 => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
        names::GETPEERNAME6 => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
        names::BIND4 => bpf_attach_type::BPF_CGROUP_INET4_BIND,
        names::BIND6 => bpf_attach_type::BPF_CGROUP_INET6_BIND,
        names::GETSOCKOPT => bpf_attach_type::BPF_CGROUP_GETSOCKOPT,
        _ => bpf_attach_type::BPF_CGROUP_SOCK_OPS,
    }
}

/// Loads and pins the programs in a directory of their own, beside what is shared, and attaches none. The caller holds the lock
/// `load` for as long as it is there, and removes it; if it is killed the next load does.
pub(crate) fn load_aside(bpf_dir: &Path) -> Outcome<Layout> {
    object::parse()?;
    mount_bpffs(bpf_dir)?;
    discard_half_loaded(bpf_dir)?;
    let aside = Layout::new(bpf_dir, &format!("{TEMPORARY}{}-aside", std::process::id()));
    let filled = make_directories(&aside).and_then(|()| fill(&aside));
    match filled {
        Ok(()) => Ok(aside),
        Err(fault) => {
            // The first error is the one to tell; a leftover is found by the next load.
            let _later = remove_tree(aside.root());
            Err(fault)
        }
    }
}

/// Loads the object and pins it, whole or not at all.
fn load(layout: &Layout, bpf_dir: &Path) -> Outcome<()> {
    object::parse()?;
    let temporary = Layout::new(bpf_dir, &format!("{TEMPORARY}{}", std::process::id()));
    make_directories(&temporary)?;
    let loaded = fill(&temporary).and_then(|()| {
        fs::rename(temporary.root(), layout.root())
            .tried(|| format!("rename the loaded programs to {}", layout.root().display()))
    });
    if loaded.is_err() {
        // The first error is the one to tell; a leftover is found by the next load.
        let _later = remove_tree(temporary.root());
    }
    loaded
}

fn make_directories(layout: &Layout) -> Outcome<()> {
    ["maps", "programs", "links", "pods"]
        .iter()
        .try_for_each(|directory| make_directory(&layout.root().join(directory)))
}

fn fill(temporary: &Layout) -> Outcome<()> {
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object::BYTES)
        .tried(|| "create the maps of the kernel object")?;
    for name in names::MAPS {
        let map =
            ebpf.map(name).ok_or_else(|| Fault::new(format!("find map {name}"), "not in the object"))?;
        let path = temporary.map(name);
        map.pin(&path).tried(|| format!("pin map {}", path.display()))?;
    }
    for name in names::SHARED_PROGRAMS.into_iter().chain([names::GETSOCKOPT]) {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| Fault::new(format!("find program {name}"), "not in the object"))?;
        load_program(program).tried(|| format!("load program {name}"))?;
        let path = temporary.program(name);
        program.pin(&path).tried(|| format!("pin program {}", path.display()))?;
    }
    place_lookups(&mut ebpf)
}

/// Puts the programs of incoming connections where the pods' own ones find them.
fn place_lookups(ebpf: &mut Ebpf) -> Outcome<()> {
    for (place, name) in PLACES {
        let what = || format!("load program {name}");
        let program = ebpf.program_mut(name).ok_or_else(|| Fault::new(what(), "not in the object"))?;
        let program: &mut SkLookup = program.try_into().tried(what)?;
        program.load().tried(what)?;
        let fd = program.fd().tried(what)?.try_clone().tried(what)?;
        let map =
            ebpf.map_mut(names::LOOKUPS).ok_or_else(|| Fault::new(what(), "its map is not in the object"))?;
        ProgramArray::try_from(map)
            .and_then(|mut programs| programs.set(place, &fd, 0))
            .tried(|| format!("put program {name} into map {}", names::LOOKUPS))?;
    }
    Ok(())
}

fn load_program(program: &mut Program) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Ok(program) = TryInto::<&mut CgroupSockAddr>::try_into(&mut *program) {
        program.load()?;
    } else if let Ok(program) = TryInto::<&mut SockOps>::try_into(&mut *program) {
        program.load()?;
    } else {
        TryInto::<&mut CgroupSockopt>::try_into(&mut *program)?.load()?;
    }
    Ok(())
}

/// Creates a directory and its parents, for root only.
pub fn make_directory(path: &Path) -> Outcome<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .tried(|| format!("create directory {}", path.display()))
}

/// Directories a killed load left. Called with the load lock held, so none of them is being filled.
pub(crate) fn discard_half_loaded(bpf_dir: &Path) -> Outcome<()> {
    for name in children(bpf_dir)? {
        if name.starts_with(TEMPORARY) {
            remove_tree(&bpf_dir.join(name))?;
        }
    }
    Ok(())
}

/// Removes the pins of objects that serve no pod any more and that no ADD of this plugin will use: other objects than its own, and
/// its own with pins missing, which the next ADD then loads anew. Another version of the plugin may just have
/// loaded one of them and not yet made its pod's place there: the object's directory is renamed first, so that it is there
/// whole or not at all, and that ADD fails cleanly (see `PodPins::prepare`) and loads anew when it is repeated. It is put back
/// if the place was made in between: that ADD may be through, and its pod would run bare.
pub fn collect(bpf_dir: &Path, locks: &Lock<'_>) -> Outcome<()> {
    for layout in Layout::all(bpf_dir)? {
        if layout.is_unused()? && (layout.hash() != object::HASH || damage(&layout)?.is_some()) {
            let _held = locks.take("load")?;
            discard_if_unused(bpf_dir, &layout)?;
        }
    }
    Ok(())
}

/// Removes an object's pins unless an attachment has a place among them; false if one has. See [`collect`]; needs the lock `load`.
pub(crate) fn discard_if_unused(bpf_dir: &Path, layout: &Layout) -> Outcome<bool> {
    let aside = Layout::new(bpf_dir, &format!("{TEMPORARY}{}-old", std::process::id()));
    let moved = |from: &Layout, to: &Layout| fs::rename(from.root(), to.root());
    match moved(layout, &aside) {
        // Another run was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        renamed => renamed.tried(|| format!("set programs aside: {}", layout.root().display()))?,
    }
    if aside.is_unused()? {
        remove_tree(aside.root())?;
        Ok(true)
    } else {
        moved(&aside, layout).tried(|| format!("put programs back: {}", layout.root().display()))?;
        Ok(false)
    }
}

const BPF_FS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::BPF_FS_MAGIC;

/// Whether a path is on a BPF file system.
pub fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes sure that pins can be made under `bpf_dir`: its parent is a bpffs, or becomes one.
fn mount_bpffs(bpf_dir: &Path) -> Outcome<()> {
    if is_bpffs(bpf_dir) {
        return Ok(());
    }
    let parent = bpf_dir.parent().ok_or_else(|| {
        Fault::new(format!("use bpfDir {}", bpf_dir.display()), "it has no parent directory")
    })?;
    if !is_bpffs(parent) {
        // /sys/fs/bpf exists wherever the kernel has BPF; elsewhere the directory may have to be made.
        if !parent.is_dir() {
            make_directory(parent)?;
        }
        nix::mount::mount(Some("bpf"), parent, Some("bpf"), nix::mount::MsFlags::empty(), Some("mode=0700"))
            .tried(|| format!("mount a BPF file system on {}", parent.display()))?;
    }
    make_directory(bpf_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_set_aside_are_put_back_if_a_pod_has_come() {
        let dir = std::env::temp_dir().join(format!("shunt-aside-{}", std::process::id()));
        let layout = Layout::new(&dir, "0123456789abcdef");
        for (pod, stays) in [(true, true), (false, false)] {
            fs::create_dir_all(layout.pods()).unwrap();
            if pod {
                fs::create_dir(layout.attachment("c@eth0")).unwrap();
            }
            assert_eq!(discard_if_unused(&dir, &layout).unwrap(), !stays);
            assert_eq!(
                children(&dir).unwrap(),
                if stays { vec!["0123456789abcdef".to_owned()] } else { vec![] }
            );
            remove_tree(&layout.attachment("c@eth0")).unwrap();
        }
        discard_if_unused(&dir, &layout).unwrap();
        fs::remove_dir(&dir).unwrap();
    }
}
