//! What the kernel was built with, as far as it tells: in `/boot/config-VERSION`, or in `/proc/config.gz`.

use std::fs::File;
use std::io::Read as _;

use flate2::read::GzDecoder;
use shunt_api::Backend;

use super::Finding;

/// A configuration has 300 KiB.
const MOST: u64 = 8 * 1024 * 1024;

/// Options without which a backend cannot work, and what for. Whether it does work, the probe says (`shuntctl backend`).
const NEEDED: [(Backend, &str, &str); 8] = [
    (Backend::Ebpf, "CONFIG_BPF_SYSCALL", "programs and maps"),
    (Backend::Ebpf, "CONFIG_CGROUP_BPF", "programs on the pods' cgroup"),
    (Backend::Ebpf, "CONFIG_INET", "sockets"),
    (Backend::Ebpf, "CONFIG_NET_NS", "network namespaces of pods"),
    (Backend::Iptables, "CONFIG_NETFILTER_XT_MATCH_OWNER", "telling the proxy by its user"),
    (Backend::Iptables, "CONFIG_NETFILTER_XT_TARGET_REDIRECT", "leading connections to the proxy"),
    (Backend::Iptables, "CONFIG_NF_NAT", "translating addresses"),
    (Backend::Iptables, "CONFIG_NF_CONNTRACK", "telling answers from questions"),
];

/// What is missing for the backend that pods get; nothing where the kernel does not tell what it has.
pub(super) fn findings(backend: Backend, release: &str) -> Vec<Finding> {
    configuration(release).map(|text| missing(&text, backend)).unwrap_or_default()
}

fn configuration(release: &str) -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = File::open(format!("/boot/config-{release}")) {
        file.take(MOST).read_to_string(&mut text).ok()?;
    } else {
        GzDecoder::new(File::open("/proc/config.gz").ok()?).take(MOST).read_to_string(&mut text).ok()?;
    }
    Some(text)
}

fn missing(text: &str, backend: Backend) -> Vec<Finding> {
    let has = |option: &str| {
        text.lines().any(|line| line.strip_prefix(option).is_some_and(|value| matches!(value, "=y" | "=m")))
    };
    // What is not spoken of may be called otherwise in this version: only what is said to be left out is missing.
    let is_left_out = |option: &str| text.lines().any(|line| line == format!("# {option} is not set"));
    let wanted = |of: Backend| backend == Backend::Auto || backend == of;
    let finding = |(of, option, what): &(Backend, &str, &str)| {
        Finding::warning(
            "kernel-option",
            format!("the kernel was built without {option}, which {of} needs: {what}"),
            match of {
                Backend::Ebpf => "take a kernel that has it, or backend \"iptables\"",
                Backend::Iptables | Backend::Auto => "take a kernel that has it, or backend \"ebpf\"",
            },
        )
    };
    NEEDED
        .iter()
        .filter(|(of, option, _)| wanted(*of) && !has(option) && is_left_out(option))
        .map(finding)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_named_for_the_backend_that_needs_it() {
        let text = "CONFIG_BPF_SYSCALL=y\n# CONFIG_CGROUP_BPF is not set\n# CONFIG_NF_NAT is not set\nCONFIG_NF_CONNTRACK=m\n";
        let seen =
            |backend| missing(text, backend).into_iter().map(|finding| finding.seen).collect::<Vec<_>>();
        assert_eq!(seen(Backend::Ebpf).len(), 1);
        assert!(seen(Backend::Ebpf)[0].contains("CONFIG_CGROUP_BPF, which ebpf needs"));
        assert!(seen(Backend::Iptables)[0].contains("CONFIG_NF_NAT"));
        assert_eq!(seen(Backend::Auto).len(), 2);
        assert!(missing("", Backend::Auto).is_empty(), "nothing is said");
    }

    /// These tests run pods under both backends: what this kernel says of itself must fit.
    #[test]
    fn this_kernel_has_what_is_needed() {
        let release = nix::sys::utsname::uname().expect("a name");
        let release = release.release().to_string_lossy().into_owned();
        assert_eq!(findings(Backend::Auto, &release), []);
    }
}
