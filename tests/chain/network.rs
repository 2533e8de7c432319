//! A network: a list in a file, and a runtime that calls libcni for it.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sandbox::Sandbox;
use crate::site::{Site, tools};

/// The network.
#[derive(Clone)]
pub(crate) struct Network<'a> {
    site: &'a Site,
    /// Its list's file.
    pub(crate) file: PathBuf,
    /// libcni's cache.
    pub(crate) cache: PathBuf,
    /// Directories the runtime looks for plugins in.
    pub(crate) plugins: Vec<PathBuf>,
    /// DEL and CHECK with the configuration out of the cache, as CRI-O.
    pub(crate) from_cache: bool,
    /// Programs of the host that cannot be run.
    pub(crate) without: &'static [&'static str],
    /// Whether the runtime hands capabilities over. Multus does not.
    pub(crate) capabilities: bool,
}

/// What libcni said.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Said {
    #[serde(default)]
    result: Value,
    error: Option<Failure>,
}

/// An error, as libcni gives it to the runtime.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Failure {
    /// What a runtime logs.
    pub(crate) text: String,
    /// The plugin's code; 0: libcni's own error.
    pub(crate) code: u64,
    /// The plugin's message.
    pub(crate) msg: String,
    /// The plugin's details.
    pub(crate) details: String,
}

/// GC's list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Valid<'a> {
    /// No key, as cnitool.
    Missing,
    /// The key with null, as a Go runtime whose slice was never made.
    Null,
    /// These sandboxes' first interfaces.
    These(&'a [&'a Sandbox]),
}

impl<'a> Network<'a> {
    pub(crate) fn new(site: &'a Site, name: &str, list: &Value) -> Self {
        let network = Self {
            site,
            file: site.path("net.d").join(format!("10-{name}.conflist")),
            cache: site.path("cache"),
            plugins: vec![site.plugins()],
            from_cache: false,
            without: &[],
            capabilities: true,
        };
        network.write(list);
        network
    }

    /// The list changes, as its owner changes it.
    pub(crate) fn write(&self, list: &Value) {
        let text = serde_json::to_string_pretty(list).expect("JSON");
        fs::write(&self.file, text).expect("own file");
    }

    /// The same with a cache that knows nothing.
    pub(crate) fn forgetful(&self) -> Self {
        let cache = self.site.path(&format!("cache{}", self.site.number()));
        Self { cache, ..self.clone() }
    }

    fn call(&self, verb: &str, change: impl FnOnce(&mut Value)) -> Said {
        let mut order = json!({
            "conf": self.file, "plugins": self.plugins, "cache": self.cache, "fromCache": self.from_cache,
        });
        change(&mut order);
        let done = self.site.run(&tools().join("runtime"), &[verb], &[], &order.to_string(), self.without);
        let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{verb}: {}: {stdout}{stderr}", done.status);
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{verb}: {error}: {stdout}{stderr}"))
    }

    fn about(&self, verb: &str, sandbox: &Sandbox, interface: &str) -> Said {
        self.call(verb, |order| {
            order["container"] = json!(sandbox.pod.container());
            order["netns"] = json!(sandbox.netns());
            order["interface"] = json!(interface);
            order["args"] = json!(sandbox.arguments());
            if self.capabilities {
                order["capabilities"] = sandbox.capabilities();
            } else {
                order["args"] = json!(sandbox.multus_arguments());
            }
        })
    }

    /// ADD.
    pub(crate) fn add_as(&self, sandbox: &Sandbox, interface: &str) -> Said {
        self.about("add", sandbox, interface)
    }

    /// ADD of `eth0`, which must work; the result. A machine that stands still for seconds uses up our plugin's time: it says
    /// so, and the runtime unwinds and asks again.
    #[track_caller]
    pub(crate) fn add(&self, sandbox: &mut Sandbox) -> Value {
        const DEADLINE: u64 = 106;
        let mut added = self.add_as(sandbox, "eth0");
        if added.error.as_ref().is_some_and(|error| error.code == DEADLINE) {
            self.del(sandbox);
            added = self.add_as(sandbox, "eth0");
        }
        let result = added.ok();
        sandbox.learn(&result, "eth0");
        result
    }

    /// CHECK.
    pub(crate) fn check_as(&self, sandbox: &Sandbox, interface: &str) -> Said {
        self.about("check", sandbox, interface)
    }

    /// CHECK of `eth0`.
    pub(crate) fn check(&self, sandbox: &Sandbox) -> Said {
        self.check_as(sandbox, "eth0")
    }

    /// DEL.
    pub(crate) fn del_as(&self, sandbox: &Sandbox, interface: &str) -> Said {
        self.about("del", sandbox, interface)
    }

    /// DEL of `eth0`, which must work.
    #[track_caller]
    pub(crate) fn del(&self, sandbox: &Sandbox) {
        self.del_as(sandbox, "eth0").ok();
    }

    /// What libcni has cached of `eth0`.
    pub(crate) fn cached(&self, sandbox: &Sandbox) -> Value {
        self.about("cached", sandbox, "eth0").ok()
    }

    /// GC.
    pub(crate) fn gc(&self, valid: Valid<'_>) -> Said {
        self.call("gc", |order| {
            order["listed"] = json!(!matches!(valid, Valid::Missing));
            if let Valid::These(all) = valid {
                let named = |one: &&Sandbox| json!({ "containerID": one.pod.container(), "ifname": "eth0" });
                order["valid"] = all.iter().map(named).collect();
            }
        })
    }

    /// STATUS.
    pub(crate) fn status(&self) -> Said {
        self.call("status", |_| {})
    }

    /// VERSION of each plugin, as CRI-O asks when it reads a list; the capabilities they want.
    pub(crate) fn validate(&self) -> Said {
        self.call("validate", |_| {})
    }

    /// The list as libcni reads it.
    pub(crate) fn listed(&self) -> Said {
        self.call("list", |_| {})
    }

    /// A verb through cnitool: how it ended, and everything it said. Its cache is in the site's `/var/lib`.
    pub(crate) fn cnitool(&self, verb: &str, name: &str, sandbox: &Sandbox) -> (bool, String) {
        let join =
            |pairs: Vec<[String; 2]>| pairs.iter().map(|pair| pair.join("=")).collect::<Vec<_>>().join(";");
        let paths: Vec<String> = self.plugins.iter().map(|path| path.display().to_string()).collect();
        let environment = [
            ("CNI_PATH", paths.join(":")),
            ("NETCONFPATH", self.site.path("net.d").display().to_string()),
            ("CAP_ARGS", sandbox.capabilities().to_string()),
            ("CNI_ARGS", join(sandbox.arguments())),
        ];
        let netns = sandbox.pod.netns.path().display().to_string();
        let done = self.site.run(&tools().join("cnitool"), &[verb, name, &netns], &environment, "", &[]);
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    }
}

impl Said {
    /// The result of a call that must work.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        if let Some(error) = self.error {
            panic!("it failed: {}", error.text);
        }
        self.result
    }

    /// The error of a call that must fail.
    #[track_caller]
    pub(crate) fn failed(self) -> Failure {
        self.error.unwrap_or_else(|| panic!("it worked: {}", self.result))
    }
}
