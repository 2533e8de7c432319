//! Annotations: a table of keys, each with the parser of its value and the place it goes to. A row per annotation.

use std::num::NonZeroU16;
use std::str::FromStr;

use shunt_api::entry::shortened;
use shunt_api::paths::ANNOTATION_PREFIX;
use shunt_api::{Include, Network, PortRange, Redirect};

use crate::attachment::is_ifname;
use crate::cni::Annotations;
use crate::error::{Error, Kind};

/// The marker of mesh `custom`.
pub const INTERCEPT: &str = "shunt-cni.io/intercept";

/// One annotation: its key, and what its value sets.
struct Row {
    key: &'static str,
    set: fn(&str, &mut Redirect) -> Result<(), String>,
}

/// Our own: one for each key of `redirect`, under every mesh.
static OWN: [Row; 13] = [
    Row { key: "shunt-cni.io/outbound-port", set: |text, to| put(&mut to.outbound_port, port(text)) },
    Row { key: "shunt-cni.io/inbound-port", set: |text, to| put(&mut to.inbound_port, port(text)) },
    Row { key: "shunt-cni.io/dns-port", set: |text, to| put(&mut to.dns_port, port(text)) },
    Row { key: "shunt-cni.io/proxy-uids", set: |text, to| put(&mut to.proxy_uids, ids(text)) },
    Row { key: "shunt-cni.io/proxy-gids", set: |text, to| put(&mut to.proxy_gids, ids(text)) },
    Row {
        key: "shunt-cni.io/include-outbound-cidrs",
        set: |text, to| put(&mut to.include_outbound_cidrs, include_networks(text)),
    },
    Row {
        key: "shunt-cni.io/exclude-outbound-cidrs",
        set: |text, to| put(&mut to.exclude_outbound_cidrs, networks(text)),
    },
    Row {
        key: "shunt-cni.io/include-outbound-ports",
        set: |text, to| put(&mut to.include_outbound_ports, ports(text)),
    },
    Row {
        key: "shunt-cni.io/exclude-outbound-ports",
        set: |text, to| put(&mut to.exclude_outbound_ports, ports(text)),
    },
    Row {
        key: "shunt-cni.io/include-inbound-ports",
        set: |text, to| put(&mut to.include_inbound_ports, include_ports(text)),
    },
    Row {
        key: "shunt-cni.io/exclude-inbound-ports",
        set: |text, to| put(&mut to.exclude_inbound_ports, ports(text)),
    },
    Row {
        key: "shunt-cni.io/exclude-inbound-cidrs",
        set: |text, to| put(&mut to.exclude_inbound_cidrs, networks(text)),
    },
    Row {
        key: "shunt-cni.io/exclude-interfaces",
        set: |text, to| put(&mut to.exclude_interfaces, interfaces(text)),
    },
];

/// The layer our own annotations make. `marker` is the one of ours that the profile reads itself, if any.
///
/// # Errors
/// [`Kind::Config`] naming key and value: a bad value, or a key with our prefix that does not exist. A mistyped exclusion
/// that is passed over in silence is found much later.
pub(crate) fn own(annotations: &Annotations, marker: Option<&str>) -> Result<Redirect, Error> {
    let from_prefix = annotations
        .range(ANNOTATION_PREFIX.to_owned()..)
        .take_while(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    for (key, value) in from_prefix {
        if Some(key.as_str()) != marker && !OWN.iter().any(|row| row.key == key) {
            return Err(bad(key, value, "no such annotation in this version for this mesh"));
        }
    }
    let mut redirect = Redirect::default();
    for row in &OWN {
        if let Some(value) = annotations.get(row.key) {
            (row.set)(value, &mut redirect).map_err(|why| bad(row.key, value, &why))?;
        }
    }
    Ok(redirect)
}

/// The error for a bad value.
pub(crate) fn bad(key: &str, value: &str, why: &str) -> Error {
    Error::new(Kind::Config, format!("annotation {}: {:?}: {why}", shortened(key), shortened(value)))
}

pub(crate) fn put<T>(place: &mut Option<T>, parsed: Result<T, String>) -> Result<(), String> {
    *place = Some(parsed?);
    Ok(())
}

/// A comma-separated list; an empty text is an empty list.
pub(crate) fn list<T: FromStr<Err: ToString>>(text: &str) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|item| item.trim().parse().map_err(|error: T::Err| error.to_string())).collect()
}

/// `*` or a list.
fn include<T: FromStr<Err: ToString>>(text: &str) -> Result<Include<T>, String> {
    if text.trim() == "*" { Ok(Include::All) } else { list(text).map(Include::Only) }
}

pub(crate) fn ports(text: &str) -> Result<Vec<PortRange>, String> {
    list(text)
}

pub(crate) fn include_ports(text: &str) -> Result<Include<PortRange>, String> {
    include(text)
}

pub(crate) fn networks(text: &str) -> Result<Vec<Network>, String> {
    list(text)
}

pub(crate) fn include_networks(text: &str) -> Result<Include<Network>, String> {
    include(text)
}

pub(crate) fn interfaces(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = list(text)?;
    match names.iter().find(|name| !is_ifname(name)) {
        None => Ok(names),
        Some(name) => Err(format!("{:?} is not an interface name of 1 to 15 bytes", shortened(name))),
    }
}

pub(crate) fn port(text: &str) -> Result<NonZeroU16, String> {
    digits(text).ok_or_else(|| "must be one port (1-65535)".to_owned())
}

pub(crate) fn ids(text: &str) -> Result<Vec<u32>, String> {
    const WHAT: &str = "must be a list of ids (0-4294967294)";
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|item| digits(item).filter(|id| *id != u32::MAX).ok_or_else(|| WHAT.to_owned()))
        .collect()
}

/// A number written in digits alone: no sign.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};
    use serde_json::{Value, json};

    use super::{OWN, own};
    use crate::cni::Annotations;
    use crate::error::Kind;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// What an annotation sets, in the entry's own spelling.
    #[test]
    fn each_sets_its_key() {
        for (key, value, set) in [
            ("outbound-port", "15001", json!({"outboundPort": 15001})),
            ("inbound-port", " 15006 ", json!({"inboundPort": 15006})),
            ("dns-port", "53", json!({"dnsPort": 53})),
            ("proxy-uids", "1337, 0", json!({"proxyUids": [1337, 0]})),
            ("proxy-gids", "", json!({"proxyGids": []})),
            ("include-outbound-cidrs", "*", json!({"includeOutboundCidrs": "*"})),
            (
                "include-outbound-cidrs",
                "10.1.2.3/8,fd00::/8",
                json!({"includeOutboundCidrs": ["10.0.0.0/8", "fd00::/8"]}),
            ),
            (
                "exclude-outbound-cidrs",
                "::ffff:10.0.0.0/104",
                json!({"excludeOutboundCidrs": ["10.0.0.0/8"]}),
            ),
            ("include-outbound-ports", "80,8000-8999", json!({"includeOutboundPorts": [80, "8000-8999"]})),
            ("exclude-outbound-ports", "", json!({"excludeOutboundPorts": []})),
            ("include-inbound-ports", "", json!({"includeInboundPorts": []})),
            ("include-inbound-ports", "*", json!({"includeInboundPorts": "*"})),
            ("exclude-inbound-ports", "9", json!({"excludeInboundPorts": [9]})),
            ("exclude-inbound-cidrs", "10.0.0.1", json!({"excludeInboundCidrs": ["10.0.0.1/32"]})),
            ("exclude-interfaces", "net1, net2", json!({"excludeInterfaces": ["net1", "net2"]})),
        ] {
            let layer = own(&annotations(&[(&format!("shunt-cni.io/{key}"), value)]), None).expect("valid");
            assert_eq!(serde_json::to_value(layer).expect("plain"), set, "{key}");
        }
    }

    #[test]
    fn there_is_one_for_each_key_of_redirect() {
        let Value::Object(full) = json!({
            "outboundPort": 1, "inboundPort": 1, "dnsPort": 1, "proxyUids": [], "proxyGids": [], "includeOutboundCidrs": [],
            "excludeOutboundCidrs": [], "includeOutboundPorts": [], "excludeOutboundPorts": [], "includeInboundPorts": [],
            "excludeInboundPorts": [], "excludeInboundCidrs": [], "excludeInterfaces": []
        }) else {
            panic!("object")
        };
        let kebab = |key: &str| {
            key.chars().fold(String::from("shunt-cni.io/"), |mut kebab, c| {
                if c.is_ascii_uppercase() {
                    kebab.push('-');
                }
                kebab.push(c.to_ascii_lowercase());
                kebab
            })
        };
        let keys: Vec<String> = full.keys().map(|key| kebab(key)).collect();
        assert_eq!(OWN.iter().map(|row| row.key.to_owned()).collect::<Vec<_>>(), keys);
        assert!(serde_json::from_value::<shunt_api::Redirect>(Value::Object(full)).is_ok());
    }

    #[test]
    fn bad_ones_are_named() {
        for (key, value) in [
            ("shunt-cni.io/outbound-port", "0"),
            ("shunt-cni.io/outbound-port", ""),
            ("shunt-cni.io/outbound-port", "8000-8001"),
            ("shunt-cni.io/outbound-port", "+80"),
            ("shunt-cni.io/proxy-uids", "root"),
            ("shunt-cni.io/proxy-uids", "1,,2"),
            ("shunt-cni.io/proxy-uids", "4294967295"),
            ("shunt-cni.io/include-outbound-cidrs", "*,10.0.0.0/8"),
            ("shunt-cni.io/exclude-outbound-cidrs", "*"),
            ("shunt-cni.io/exclude-outbound-ports", "1,"),
            ("shunt-cni.io/exclude-outbound-ports", "9-1"),
            ("shunt-cni.io/exclude-interfaces", "a/b"),
            ("shunt-cni.io/exclude-outbound-port", "80"),
            ("shunt-cni.io/intercept", "true"),
            ("shunt-cni.io/", ""),
        ] {
            let error = own(&annotations(&[(key, value)]), None).expect_err("refused");
            assert_eq!(error.kind(), Kind::Config);
            assert!(
                error.details().contains(key) && error.details().contains(&format!("{value:?}")),
                "{}",
                error.details()
            );
        }
        let long = "x".repeat(100_000);
        let error = own(&annotations(&[("shunt-cni.io/proxy-uids", &long)]), None).expect_err("refused");
        assert!(error.details().len() < 500);
    }

    #[test]
    fn others_are_not_ours() {
        let others = annotations(&[
            ("shunt-cni.ioo/x", "1"),
            ("shunt-cni", "1"),
            ("x", "shunt-cni.io/"),
            ("shunt-cni.io/intercept", "x"),
        ]);
        assert!(own(&others, Some("shunt-cni.io/intercept")).is_ok());
    }

    proptest! {
        #[test]
        fn any_value_is_answered(which in 0..OWN.len(), value in "([0-9]{1,6}|[-,*/.:]| |10\\.0\\.0\\.0/8|fd00::/8|.){0,12}") {
            let key = OWN[which].key;
            match own(&annotations(&[(key, &value)]), None) {
                Ok(layer) => prop_assert!(layer != shunt_api::Redirect::default()),
                Err(error) => prop_assert!(error.kind() == Kind::Config && error.details().contains(key)),
            }
        }
    }
}
