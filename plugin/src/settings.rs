//! The entry as it is meant: checked beyond the shape of each key.

use std::ops::Deref;
use std::path::Path;

use shunt_api::Entry;

use crate::attachment::is_ifname;
use crate::error::{Error, Kind};

/// Longest path the kernel takes, with its terminating zero.
const PATH_MAX: usize = 4096;

/// An [`Entry`] whose values make sense. All fields of the entry are reached through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(Entry);

impl Settings {
    /// Checks what the shape of a single key does not say.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the key.
    pub fn new(entry: Entry) -> Result<Self, Error> {
        let refused = |key: &str, why: &str| Err(Error::new(Kind::Config, format!("key \"{key}\": {why}")));
        for (key, path) in
            [("stateDir", &entry.state_dir), ("bpfDir", &entry.bpf_dir), ("log.file", &entry.log.file)]
        {
            if !is_sane_path(path) {
                return refused(key, "must be an absolute path of less than 4096 bytes");
            }
        }
        if entry.exclude_namespaces.iter().any(String::is_empty) {
            return refused("excludeNamespaces", "must not hold an empty name");
        }
        let redirect = &entry.redirect;
        for (key, ids) in
            [("redirect.proxyUids", &redirect.proxy_uids), ("redirect.proxyGids", &redirect.proxy_gids)]
        {
            if ids.iter().flatten().any(|id| *id == u32::MAX) {
                return refused(key, "4294967295 is nobody's id");
            }
        }
        if redirect.exclude_interfaces.iter().flatten().any(|name| !is_ifname(name)) {
            return refused("redirect.excludeInterfaces", "must hold interface names of 1 to 15 bytes");
        }
        Ok(Self(entry))
    }
}

impl Deref for Settings {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

/// Absolute, without NUL, no longer than the kernel takes.
pub(crate) fn is_sane_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    path.is_absolute() && bytes.len() < PATH_MAX && !bytes.contains(&0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shunt_api::Entry;

    use super::Settings;
    use crate::error::{Error, Kind};

    fn settings(entry: Value) -> Result<Settings, Error> {
        let Value::Object(object) = entry else { panic!("not an object") };
        Settings::new(Entry::from_object(&object).expect("well-formed"))
    }

    #[test]
    fn what_makes_no_sense() {
        for (entry, key) in [
            (json!({"stateDir": "run/shunt"}), "stateDir"),
            (json!({"stateDir": ""}), "stateDir"),
            (json!({"bpfDir": "a\0b"}), "bpfDir"),
            (json!({"bpfDir": "/a\0b"}), "bpfDir"),
            (json!({"log": {"file": "shunt.log"}}), "log.file"),
            (json!({"excludeNamespaces": ["a", ""]}), "excludeNamespaces"),
            (json!({"redirect": {"proxyUids": [u32::MAX]}}), "redirect.proxyUids"),
            (json!({"redirect": {"excludeInterfaces": ["a b"]}}), "redirect.excludeInterfaces"),
        ] {
            let error = settings(entry.clone()).expect_err("refused");
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.details().contains(&format!("\"{key}\"")), "{entry}: {}", error.details());
        }
    }
}
