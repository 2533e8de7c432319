//! Somebody outside the mesh whom everybody asks, and who notes who came: the oracle of every scenario.

use std::net::{IpAddr, SocketAddr};

use shunt_tests::sidecar::went_through;

use crate::cluster::{Cluster, NAMESPACE};
use crate::objects::{container, pod};

/// Where it serves.
pub(crate) const PORT: u16 = 9000;

/// Who it is.
pub(crate) enum World {
    /// A pod that is not meshed.
    Pod(Cluster),
    /// A process beyond the node, which outlives it.
    Beyond(Vec<IpAddr>, Box<dyn Fn() -> String>),
}

/// What it noted of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whom it was asked by.
    pub(crate) from: SocketAddr,
    /// The path: who that says it is.
    pub(crate) path: String,
}

impl Note {
    /// Whether a pod of this name has asked.
    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.path.trim_start_matches('/') == name
    }

    /// Whether it came by way of a proxy.
    pub(crate) fn by_proxy(&self) -> bool {
        went_through(self.from)
    }
}

impl World {
    /// A pod of the cluster plays it.
    pub(crate) fn pod(cluster: &Cluster) -> Self {
        let serve = container("world", &cluster.images.pod, 1000, &["serve", &PORT.to_string()]);
        let mut world = pod("world", false, &[], &[serve]);
        world["spec"]["containers"][0]["readinessProbe"] =
            serde_json::json!({ "tcpSocket": { "port": PORT }, "periodSeconds": 1 });
        cluster.run_pods(&[world]);
        Self::Pod(cluster.clone())
    }

    /// Its addresses, one of each family the cluster has.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let list = match self {
            Self::Pod(cluster) => cluster.addresses("world"),
            Self::Beyond(list, _notes) => list.clone(),
        };
        list.into_iter().map(|ip| SocketAddr::new(ip, PORT).to_string()).collect()
    }

    fn text(&self) -> String {
        match self {
            Self::Pod(cluster) => cluster.kubectl(&["-n", NAMESPACE, "logs", "world"]),
            Self::Beyond(_list, notes) => notes(),
        }
    }

    /// A moment in its notes: how many there are.
    pub(crate) fn mark(&self) -> usize {
        self.text().lines().count()
    }

    /// The requests it has noted, of those whose name begins so.
    pub(crate) fn notes(&self, who: &str) -> Vec<Note> {
        self.since(0, who)
    }

    /// The same from a moment on.
    pub(crate) fn since(&self, mark: usize, who: &str) -> Vec<Note> {
        let text = self.text();
        let note = |line: &str| {
            let (from, path) = line.split_once(' ')?;
            Some(Note { from: from.parse().ok()?, path: path.to_owned() })
        };
        text.lines()
            .skip(mark)
            .filter_map(note)
            .filter(|note| note.path.trim_start_matches('/').starts_with(who))
            .collect()
    }

    /// Those of them that no proxy made.
    pub(crate) fn bare(&self, who: &str) -> Vec<Note> {
        self.notes(who).into_iter().filter(|note| !note.by_proxy()).collect()
    }
}
