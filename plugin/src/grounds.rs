//! What a pod's plan was made from, as far as it has a say in it: kept with the record, so that the same decision can be made again
//! for whoever asks where a value came from.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shunt_api::Entry;

use crate::cni::Annotations;
use crate::error::Error;
use crate::policy::source::concerning;
use crate::settings::Settings;

/// Longest annotations that are kept, in bytes; a document with ten thousand ports has as many.
const MOST: usize = 64 * 1024;

/// What a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grounds {
    /// The keys of the entry that are not as they are without it.
    pub entry: Map<String, Value>,
    /// The annotations that concern the mesh; none: they are too long to keep.
    pub annotations: Option<Annotations>,
    /// Which backend was chosen, and why.
    pub backend: String,
}

impl Grounds {
    /// Of an ADD.
    pub fn new(settings: &Settings, annotations: &Annotations, backend: String) -> Self {
        let annotations = concerning(settings.mesh, annotations);
        let length: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        Self { entry: said(settings), annotations: (length <= MOST).then_some(annotations), backend }
    }

    /// The entry again.
    ///
    /// # Errors
    /// Another version of the plugin knew other keys or values.
    pub fn settings(&self) -> Result<Settings, Error> {
        let entry = Entry::from_object(&self.entry)
            .map_err(|error| Error::new(crate::error::Kind::Config, error.to_string()))?;
        Settings::new(entry)
    }
}

/// What an entry says that is not so without it, but where it logs and keeps things.
fn said(entry: &Entry) -> Map<String, Value> {
    let object = |entry: &Entry| match serde_json::to_value(entry) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let default = object(&Entry::default());
    let mut said = object(entry);
    said.retain(|key, value| {
        !matches!(key.as_str(), "log" | "stateDir" | "bpfDir") && default.get(key) != Some(value)
    });
    said
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shunt_api::Entry;

    use super::{Grounds, MOST};
    use crate::cni::{Annotations, PodRef};
    use crate::policy::source::told;
    use crate::settings::Settings;

    fn settings(entry: &Value) -> Settings {
        Settings::new(Entry::from_object(entry.as_object().expect("object")).expect("well-formed"))
            .expect("valid")
    }

    #[test]
    fn the_same_is_decided_again() {
        for entry in [
            json!({}),
            json!({"mesh": "kuma", "captureDns": true, "udp": "block", "stateDir": "/a", "log": {"level": "debug"}}),
            json!({"select": "all", "excludeNamespaces": [], "redirect": {"excludeOutboundPorts": ["1-9"]}}),
        ] {
            let settings = settings(&entry);
            let annotations: Annotations = [
                ("sidecar.istio.io/status", "{}"),
                ("kuma.io/sidecar-injected", "true"),
                ("traffic.kuma.io/transparent-proxy-config", "{}"),
                ("shunt-cni.io/inbound-port", "7"),
                ("secret.example/token", "x"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
            let grounds = Grounds::new(&settings, &annotations, "ebpf".to_owned());
            let text = serde_json::to_string(&grounds).expect("plain");
            assert!(
                !text.contains("secret") && !text.contains("stateDir") && !text.contains("log"),
                "{text}"
            );
            let grounds: Grounds = serde_json::from_str(&text).expect("as written");
            let again = told(
                &PodRef::default(),
                &grounds.annotations.clone().expect("short"),
                &grounds.settings().expect("valid"),
            );
            let first = told(&PodRef::default(), &annotations, &settings);
            assert_eq!(again.expect("decided"), first.expect("decided"), "{entry}");
        }
    }

    #[test]
    fn long_ones_are_not_kept() {
        let long = [("shunt-cni.io/exclude-outbound-ports".to_owned(), "1,".repeat(MOST))].into();
        assert_eq!(Grounds::new(&settings(&json!({})), &long, String::new()).annotations, None);
    }
}
