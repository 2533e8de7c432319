//! Connections that rules which are gone still lead to the proxy: connection tracking remembers what it once translated.

use std::fs::File;
use std::io::{ErrorKind, Read as _};

use super::Finding;
use crate::backend::Receipt;
use crate::fault::{Outcome, Tried as _};
use crate::netns::Netns;
use crate::record::Record;

/// The kernel's list for the namespace of the thread that reads it.
const LIST: &str = "/proc/thread-self/net/nf_conntrack";

/// More than this is not read; one line has about 200 bytes.
const MOST: u64 = 8 * 1024 * 1024;

/// Of a pod that is captured by programs: there no rule translates anything any more.
pub(super) fn leftovers(record: &Record, netns: &Netns) -> Outcome<Option<Finding>> {
    if !matches!(record.receipt, Receipt::Ebpf { .. }) {
        return Ok(None);
    }
    let mut list = String::new();
    let read = netns.run(|| match File::open(LIST) {
        Ok(file) => file.take(MOST).read_to_string(&mut list).map(drop).tried(|| format!("read {LIST}")),
        // A kernel that tracks nothing, or does not tell.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).tried(|| format!("open {LIST}")),
    });
    read?;
    let ports = [record.plan.outbound_port, record.plan.inbound_port];
    let count = list.lines().filter(|line| is_led(line, &ports)).count();
    Ok((count > 0).then(|| {
        Finding::warning(
            "conntrack-left",
            format!("{count} connections are still led to the proxy's ports by rules that are gone"),
            "nothing, if the app ends them soon; or restart it, or delete them with `conntrack -D` in the pod's namespace",
        )
    }))
}

/// Whether a line is about a connection whose answers come from another port than it was made to, one of these.
fn is_led(line: &str, ports: &[u16]) -> bool {
    let values = |key: &'static str| {
        line.split_whitespace().filter_map(move |word| word.strip_prefix(key)?.strip_prefix('='))
    };
    // The way out comes first, then the way back, with the ends changed.
    let asked = values("dport").next();
    let answers = values("sport").nth(1);
    let led = answers.and_then(|port| port.parse().ok()).is_some_and(|port: u16| ports.contains(&port));
    led && asked.is_some() && asked != answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_led_elsewhere() {
        let line = |dport: u16, back: u16| {
            format!(
                "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.7 dst=192.0.2.1 sport=40000 dport={dport} src=10.0.0.7 dst=10.0.0.7 sport={back} dport=40000 [ASSURED] mark=0 use=1"
            )
        };
        for (dport, back, led) in
            [(80, 15001, true), (80, 80, false), (15001, 15001, false), (80, 8080, false)]
        {
            assert_eq!(is_led(&line(dport, back), &[15001, 15006]), led, "{dport} {back}");
        }
        for line in ["", "ipv4 2 icmp 1 29 src=10.0.0.7 dst=192.0.2.1 type=8", "sport=15001 dport=80"] {
            assert!(!is_led(line, &[15001]), "{line}");
        }
    }
}
