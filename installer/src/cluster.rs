//! `wait --daemonset`: asks the API server, from inside the cluster, how far a `DaemonSet` is. The only place that asks it anything,
//! and nothing on a node depends on the answer.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use slog::{Logger, info};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Where a pod finds who it is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// One request.
const REQUEST: Duration = Duration::from_secs(10);

/// The last one, however little time is left.
const LEAST: Duration = Duration::from_secs(1);

/// Between two.
const PAUSE: Duration = Duration::from_secs(2);

/// Largest answer.
const ANSWER_MAX: u64 = 1024 * 1024;

/// What counts of a `DaemonSet`.
#[derive(Debug, Clone, Default, Deserialize)]
struct DaemonSet {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    generation: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
    desired_number_scheduled: i64,
    updated_number_scheduled: i64,
    number_ready: i64,
}

impl DaemonSet {
    /// Why it is not done on every node; `None` when it is.
    fn lacks(&self) -> Option<String> {
        let Status { observed_generation, desired_number_scheduled, updated_number_scheduled, number_ready } =
            self.status;
        if observed_generation < self.metadata.generation {
            return Some("its controller has not seen its latest form yet".to_owned());
        }
        let least = updated_number_scheduled.min(number_ready);
        (least < desired_number_scheduled).then(|| {
            format!("ready on {number_ready} and of the latest form on {updated_number_scheduled} of {desired_number_scheduled} nodes")
        })
    }
}

/// `NAMESPACE/NAME`
fn parts(name: &str) -> Result<(&str, &str)> {
    let is_name = |part: &str| {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        !part.is_empty() && part.len() <= 253 && part.bytes().all(plain)
    };
    match name.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok((namespace, name)),
        _ => bail!("--daemonset {name:?}: not NAMESPACE/NAME"),
    }
}

/// Waits until a `DaemonSet` is ready on every node, or says what was missing when time was up. An API server that does not answer
/// is asked again.
///
/// # Errors
/// This is no pod of a cluster.
pub fn wait(name: &str, time: Duration, log: &Logger) -> Result<Option<String>> {
    let (namespace, daemonset) = parts(name)?;
    let host =
        std::env::var("KUBERNETES_SERVICE_HOST").ok().zip(std::env::var("KUBERNETES_SERVICE_PORT").ok());
    let (host, port) =
        host.context("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod of a cluster")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = format!("https://{host}:{port}/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemonset}");
    let begun = Instant::now();
    let mut said = String::new();
    loop {
        let left = time.saturating_sub(begun.elapsed());
        let lacks = match ask(&url, left.clamp(LEAST, REQUEST)) {
            Ok(found) => match found.lacks() {
                None => return Ok(None),
                Some(lacks) => lacks,
            },
            Err(error) => format!("{error:#}"),
        };
        if lacks != said {
            info!(log, "DaemonSet {name}: {lacks}");
            said = lacks;
        }
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(Some(said));
        }
        pause(left.min(PAUSE));
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for; bounded by the time given")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// One request. Certificate and token are read each time: both are renewed while we wait.
fn ask(url: &str, time: Duration) -> Result<DaemonSet> {
    let account = Path::new(ACCOUNT);
    let read = |name: &str| {
        let path = account.join(name);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    let authority = Certificate::from_pem(&read("ca.crt")?).context("read the cluster's certificate")?;
    let token = String::from_utf8(read("token")?).context("read the token")?;
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[authority])).build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(time))
        .proxy(None)
        .build()
        .new_agent();
    // The token goes nowhere but there: an error names the request, not its headers.
    let mut answer = agent
        .get(url)
        .header("Authorization", &format!("Bearer {}", token.trim()))
        .header("Accept", "application/json")
        .call()
        .with_context(|| format!("ask the API server for {url}"))?;
    let text = answer
        .body_mut()
        .with_config()
        .limit(ANSWER_MAX)
        .read_to_string()
        .context("read the API server's answer")?;
    serde_json::from_str(&text).context("read the API server's answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_is_done() {
        let lacks = |json: &str| serde_json::from_str::<DaemonSet>(json).expect("JSON").lacks();
        let done = r#"{"metadata":{"generation":2},"status":{"observedGeneration":2,"desiredNumberScheduled":3,"updatedNumberScheduled":3,"numberReady":3}}"#;
        assert_eq!(lacks(done), None);
        for (from, to, word) in [
            ("\"observedGeneration\":2", "\"observedGeneration\":1", "latest form yet"),
            ("\"numberReady\":3", "\"numberReady\":2", "ready on 2"),
            ("\"updatedNumberScheduled\":3", "\"numberUnavailable\":3", "form on 0 of 3"),
        ] {
            let said = lacks(&done.replace(from, to)).expect("not done");
            assert!(said.contains(word), "{said}");
        }
        assert!(lacks(r#"{"metadata":{"generation":1}}"#).is_some(), "nobody has looked at it");
    }

    #[test]
    fn names() {
        assert_eq!(parts("kube-system/shunt-installer").expect("right"), ("kube-system", "shunt-installer"));
        for name in ["", "a", "/a", "a/", "a/b/c", "a/../b", "A/b", "a/b?c"] {
            assert!(parts(name).is_err(), "{name}");
        }
    }
}
