//! Runs the plugin, and reads what it says. The installer knows of the node's kernel only what the plugin tells.
//!
//! With `--host-ns` the plugin is run in the host's mount and cgroup namespaces, where it finds the host's paths, BPF file system,
//! cgroups and tools, as when the runtime runs it. Without, it is run here, and paths of its configuration are led below the host's
//! root.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use shunt_api::paths::TYPE;
use shunt_api::report::{Report, Swept};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::files::{Directory, Root};
use crate::settings::{Settings, Wanted};

/// Most that is read of what the plugin prints: a report of 16,384 pods has 8 MiB.
const OUTPUT_MAX: u64 = 32 * 1024 * 1024;

/// STATUS takes 5 seconds at most.
const STATUS_TIME: Duration = Duration::from_secs(10);

/// Sweeping and purging, of a node full of pods.
const SWEEP_TIME: Duration = Duration::from_secs(90);

/// What STATUS said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// This node can intercept.
    Ready,
    /// It cannot, or the configuration is wrong; the CNI error code and the words.
    Refused(u64, String),
    /// The plugin could not be run, or made no sense.
    Broken(String),
}

impl Status {
    /// Whether the configuration was the reason: an unknown key, a value that is not available. Every ADD would fail.
    pub const fn is_about_configuration(&self) -> bool {
        matches!(self, Self::Refused(1 | 2 | 6 | 7, _))
    }

    /// For people.
    pub fn words(&self) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::Refused(code, words) => format!("code {code}: {words}"),
            Self::Broken(words) => words.clone(),
        }
    }
}

/// The plugin on this host.
#[derive(Debug, Clone)]
pub struct Plugin {
    host_ns: Option<PathBuf>,
    root: Root,
    bin_dir: PathBuf,
    /// A file from here in place of the one on the host.
    instead: Option<PathBuf>,
}

/// A run that ended.
struct Ran {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Plugin {
    /// Where settings say.
    pub fn new(settings: &Settings, root: &Root) -> Self {
        let (host_ns, root, bin_dir) = (settings.host_ns.clone(), root.clone(), settings.bin_dir.clone());
        Self { host_ns, root, bin_dir, instead: None }
    }

    /// The same, but run from a file that is here and not on the host.
    #[must_use]
    pub fn with(self, file: &Path) -> Self {
        Self { instead: Some(file.to_owned()), ..self }
    }

    /// Asks the plugin to install for the versions of CNI it speaks, here: a file for another machine, or half of one, never
    /// replaces one that works.
    pub async fn try_out(file: &Path) -> Result<()> {
        let mut command = Command::new(file);
        command.env("CNI_COMMAND", "VERSION");
        let what = || format!("try the plugin to install, {} (--plugin)", file.display());
        let ran = run(command, br#"{"cniVersion":"1.1.0"}"#, STATUS_TIME).await.with_context(what)?;
        let said: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        ensure!(
            ran.status.success() && said.get("supportedVersions").is_some_and(Value::is_array),
            "{}: it does not answer VERSION ({}): {}",
            what(),
            ran.status,
            excerpt(&ran.stderr)
        );
        Ok(())
    }

    /// The plugin's STATUS under this entry, as the runtime would ask for it.
    pub async fn status(&self, wanted: &Wanted) -> Status {
        let mut config = self.config(wanted);
        config.insert("cniVersion".to_owned(), json!("1.1.0"));
        config.insert("name".to_owned(), json!("shunt-installer"));
        let answered = async {
            let mut command = self.command()?;
            command.env("CNI_COMMAND", "STATUS").env("CNI_PATH", &self.bin_dir);
            run(command, &serde_json::to_vec(&config)?, STATUS_TIME).await
        };
        match answered.await {
            Err(error) => {
                Status::Broken(format!("{:#}", error.context("run the installed plugin for STATUS")))
            }
            Ok(ran) if ran.status.success() => Status::Ready,
            Ok(ran) => refusal(&ran.stdout).unwrap_or_else(|| {
                Status::Broken(format!("STATUS ended with {}: {}", ran.status, excerpt(&ran.stderr)))
            }),
        }
    }

    /// What the plugin knows of this node.
    pub async fn report(&self, wanted: &Wanted) -> Result<Report> {
        self.ask(wanted, &["report"], STATUS_TIME).await
    }

    /// Removes what is left of pods that are gone.
    pub async fn sweep(&self, wanted: &Wanted) -> Result<Swept> {
        self.ask(wanted, &["sweep"], SWEEP_TIME).await
    }

    /// Takes everything off that the plugin made on this node, and itself with the last of it.
    pub async fn purge(&self, wanted: &Wanted, detach: bool) -> Result<Swept> {
        let file = match &self.host_ns {
            Some(_) => self.bin_dir.join(TYPE),
            None => self.root.shown(&self.bin_dir.join(TYPE)),
        };
        let file = file.to_str().context("the path of the plugin is no text")?;
        let mut arguments = vec!["purge", "--binary", file];
        if detach {
            arguments.push("--detach");
        }
        self.ask(wanted, &arguments, SWEEP_TIME).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        wanted: &Wanted,
        arguments: &[&str],
        time: Duration,
    ) -> Result<T> {
        let what = || format!("run the installed plugin for `{}`", arguments.join(" "));
        let mut command = self.command().with_context(what)?;
        command.args(arguments);
        let config = serde_json::to_vec(&self.config(wanted)).with_context(what)?;
        let ran = run(command, &config, time).await.with_context(what)?;
        if !ran.status.success() {
            match refusal(&ran.stdout) {
                Some(status) => bail!("{}: {}", what(), status.words()),
                None => bail!("{}: it ended with {}: {}", what(), ran.status, excerpt(&ran.stderr)),
            }
        }
        serde_json::from_slice(&ran.stdout).with_context(what)
    }

    /// Our entry, with its paths as they are where the plugin is run.
    fn config(&self, wanted: &Wanted) -> Map<String, Value> {
        let mut config = wanted.object.clone();
        if self.host_ns.is_none() {
            let here = |path: &Path| json!(self.root.shown(path));
            config.insert("stateDir".to_owned(), here(&wanted.state_dir));
            config.insert("bpfDir".to_owned(), here(&wanted.bpf_dir));
            let log = config.entry("log").or_insert_with(|| json!({}));
            if let Value::Object(log) = log {
                log.insert("file".to_owned(), here(&wanted.log_file));
            }
        }
        config
    }

    /// The plugin, where and as it is to be run.
    fn command(&self) -> Result<Command> {
        let Some(directory) = &self.host_ns else { return self.command_here() };
        let open = |name: &str| {
            let path = directory.join(name);
            File::open(&path)
                .with_context(|| format!("open the host's namespace {} (--host-ns)", path.display()))
        };
        let namespaces = (open("mnt")?, open("cgroup")?);
        let Some(file) = &self.instead else {
            let mut command = Command::new(self.bin_dir.join(TYPE));
            enter(&mut command, namespaces, None);
            return Ok(command);
        };
        let file = File::open(file).with_context(|| format!("open {}", file.display()))?;
        // By its number: the path leads nowhere on the host.
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        enter(&mut command, namespaces, Some(file));
        Ok(command)
    }

    fn command_here(&self) -> Result<Command> {
        if let Some(file) = &self.instead {
            return Ok(Command::new(file));
        }
        let directory: Directory = self
            .root
            .directory(&self.bin_dir)?
            .with_context(|| format!("{} is not there", self.root.shown(&self.bin_dir).display()))?;
        let (file, _) = directory.open(TYPE)?;
        // Where links lead below the host's root, not where they would lead here.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(Command::new(std::fs::read_link(&link).with_context(|| format!("read {link}"))?))
    }
}

/// Has the program begin in other mount and cgroup namespaces, at the root of the former. `file` stays open until then.
#[expect(unsafe_code, reason = "a namespace is changed in the child, before the program begins")]
fn enter(command: &mut Command, (mount, cgroup): (File, File), file: Option<File>) {
    // SAFETY: two system calls between fork and exec; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            let _open = &file;
            setns(cgroup.as_fd(), CloneFlags::CLONE_NEWCGROUP)?;
            setns(mount.as_fd(), CloneFlags::CLONE_NEWNS)?;
            Ok(())
        });
    }
}

/// Runs a program with this input, for so long; it and what it prints are bounded. It sees no environment of ours, which may hold
/// secrets, but a path for the tools it may need.
async fn run(mut command: Command, input: &[u8], time: Duration) -> Result<Ran> {
    command
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let inherited: Vec<_> = std::env::vars_os().map(|(name, _)| name).filter(|name| name != "PATH").collect();
    let set: Vec<_> = command.as_std().get_envs().map(|(name, _)| name.to_owned()).collect();
    for name in inherited.iter().filter(|name| !set.contains(name)) {
        command.env_remove(name);
    }
    let mut child = command.spawn().context("start it")?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let finished = async {
        let fed = async {
            if let Some(mut stdin) = stdin {
                // It may answer without reading all of it.
                let _unread = stdin.write_all(input).await;
            }
        };
        let ((), stdout, stderr) = tokio::join!(fed, all_of(stdout), all_of(stderr));
        Ok::<_, io::Error>(Ran { status: child.wait().await?, stdout: stdout?, stderr: stderr? })
    };
    tokio::time::timeout(time, finished)
        .await
        .with_context(|| format!("it did not end within {} s and was killed", time.as_secs()))?
        .context("wait for it")
}

async fn all_of(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(OUTPUT_MAX).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The CNI error document on standard output.
fn refusal(stdout: &[u8]) -> Option<Status> {
    let said: Value = serde_json::from_slice(stdout).ok()?;
    let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default();
    Some(Status::Refused(said.get("code")?.as_u64()?, format!("{}: {}", text("msg"), text("details"))))
}

/// The beginning of what a program said, on one line.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    shunt_api::entry::shortened(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    /// A host whose plugin is a script.
    fn host(script: &str) -> (tempfile::TempDir, Plugin, Wanted) {
        let host = tempfile::tempdir().expect("directory");
        let file = host.path().join("opt/cni/bin/shunt");
        fs::create_dir_all(file.parent().expect("parent")).expect("made");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("mode");
        let root = host.path().to_str().expect("text").to_owned();
        let cli = Cli::parse_from(["shunt-installer", "once", "--host-root", &root]);
        let settings = Settings::new(&cli.options).expect("settings");
        let wanted = settings.entry.read().expect("default");
        let plugin = Plugin::new(&settings, &Root::open(host.path()).expect("root"));
        (host, plugin, wanted)
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(future)
    }

    #[test]
    fn what_status_means() {
        for (script, expected) in [
            ("[ \"$CNI_COMMAND\" = STATUS ] || exit 9", Status::Ready),
            (r#"echo '{"code":7,"msg":"m","details":"d"}'; exit 1"#, Status::Refused(7, "m: d".to_owned())),
        ] {
            let (_host, plugin, wanted) = host(script);
            assert_eq!(wait(plugin.status(&wanted)), expected, "{script}");
        }
        let (_host, plugin, wanted) = host("echo some words >&2; exit 3");
        assert!(matches!(wait(plugin.status(&wanted)), Status::Broken(why) if why.contains("some words")));
        let (host, plugin, wanted) = host("");
        fs::remove_file(host.path().join("opt/cni/bin/shunt")).expect("removed");
        assert!(
            matches!(wait(plugin.status(&wanted)), Status::Broken(why) if why.contains("opt/cni/bin/shunt"))
        );
    }

    #[test]
    fn it_is_given_paths_below_the_root_and_no_environment_of_ours() {
        let (host, plugin, wanted) =
            host("cat >\"${0%/*}/../../in\" 2>/dev/null || cat >/dev/null; env >&2; exit 1");
        let Status::Broken(said) = wait(plugin.status(&wanted)) else { panic!("it failed") };
        assert!(!said.contains("CARGO") && !said.contains("HOME="), "{said}");
        let config = plugin.config(&wanted);
        let state = host.path().join("run/shunt");
        assert_eq!(config.get("stateDir"), Some(&json!(state)));
        assert_eq!(config["log"]["file"], json!(host.path().join("var/log/shunt/shunt.log")));
    }

    #[test]
    fn one_that_hangs_or_floods_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let error = wait(run(command, b"", Duration::from_millis(50))).err().expect("timed out");
        assert!(format!("{error:#}").contains("was killed"), "{error:#}");
        let (_host, plugin, wanted) = host(r#"echo '{"attachments":[{"containerId":"c"}],"plugin":"1"}'"#);
        let report = wait(plugin.report(&wanted)).expect("report");
        assert_eq!((report.plugin.as_str(), report.attachments.len()), ("1", 1));
    }

    #[test]
    fn the_plugin_to_install_is_tried() {
        let (host, _, _) = host(r#"echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0"]}'"#);
        let file = host.path().join("opt/cni/bin/shunt");
        wait(Plugin::try_out(&file)).expect("works");
        fs::write(&file, "#!/bin/sh\nexit 0\n").expect("written");
        wait(Plugin::try_out(&file)).expect_err("says nothing");
        fs::write(&file, [0x7f, b'E', b'L', b'F', 1]).expect("written");
        let error = wait(Plugin::try_out(&file)).expect_err("half of one");
        assert!(format!("{error:#}").contains("--plugin"), "{error:#}");
    }
}
