//! Keeping virtual ports out of the range the kernel picks source ports from.
//!
//! A connection whose source port is its virtual port meets itself and passes the proxy by. The default range ends below the
//! virtual ports; a pod may widen it. Reserved ports are left out of it whatever it is.

use std::fs;
use std::io;

use shunt_abi::virtual_port::{FIRST, LAST};

use crate::fault::{Fault, Outcome, Tried as _};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Reserves the virtual ports in the calling thread's namespace. Returns the setting that was there, if it had to be changed.
/// Where it cannot be written (a read-only `/proc/sys`) that is fine as long as the range ends below them.
pub fn reserve() -> Outcome<Option<String>> {
    let before = fs::read_to_string(RESERVED).tried(|| format!("read {RESERVED}"))?.trim().to_owned();
    let Some(wanted) = with_virtual_ports(&before) else {
        return Ok(None);
    };
    match fs::write(RESERVED, &wanted) {
        Ok(()) => Ok(Some(before)),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && range_ends_below()? => Ok(None),
        Err(error) => Err(error).tried(|| format!("write {wanted:?} to {RESERVED}")),
    }
}

/// Whether the calling thread's namespace has all virtual ports reserved.
pub fn are_reserved() -> Outcome<bool> {
    let now = fs::read_to_string(RESERVED).tried(|| format!("read {RESERVED}"))?;
    Ok(with_virtual_ports(now.trim()).is_none())
}

/// Puts back what [`reserve`] found, unless somebody has changed it since.
pub fn restore(before: &str) -> Outcome<()> {
    let now = fs::read_to_string(RESERVED).tried(|| format!("read {RESERVED}"))?.trim().to_owned();
    if with_virtual_ports(before).as_deref() == Some(now.as_str()) {
        // The kernel takes an empty line for "none".
        fs::write(RESERVED, format!("{before}\n")).tried(|| format!("write {before:?} to {RESERVED}"))?;
    }
    Ok(())
}

fn range_ends_below() -> Outcome<bool> {
    let range = fs::read_to_string(RANGE).tried(|| format!("read {RANGE}"))?;
    let last = range.split_whitespace().nth(1).and_then(|last| last.parse::<u16>().ok());
    last.map(|last| last < FIRST)
        .ok_or_else(|| Fault::new(format!("read {RANGE}"), format!("it says {range:?}")))
}

/// The list with the virtual ports on it, in the kernel's own form (sorted, merged); `None` if they are all on it already.
fn with_virtual_ports(list: &str) -> Option<String> {
    let mut ranges: Vec<(u16, u16)> = list.split(',').filter_map(range).collect();
    if ranges.iter().any(|(first, last)| *first <= FIRST && *last == LAST) {
        return None;
    }
    ranges.push((FIRST, LAST));
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    Some(merged.iter().map(text).collect::<Vec<_>>().join(","))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let text = text.trim();
    match text.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::with_virtual_ports;

    #[test]
    fn what_was_reserved_stays_reserved() {
        for (before, after) in [
            ("", Some("61000-65535")),
            ("8080", Some("8080,61000-65535")),
            ("60000-62000,7000", Some("7000,60000-65535")),
            ("60999", Some("60999-65535")),
            ("61000-65535", None),
            ("1-65535", None),
        ] {
            assert_eq!(with_virtual_ports(before).as_deref(), after, "{before:?}");
        }
    }
}
