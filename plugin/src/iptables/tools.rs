//! The host's iptables programs: where they are and which flavour they are.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Family, Flavour};

/// Where distributions put them. `PATH` comes last: a runtime may have any.
const DIRECTORIES: [&str; 7] = [
    "/usr/sbin",
    "/sbin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/run/current-system/sw/bin",
];

/// One program and the name it is to be called by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The file.
    pub program: PathBuf,
    /// Its first word: programs that are many in one go by it.
    pub name: String,
}

/// What a tool does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// `iptables-restore`
    Restore,
    /// `iptables-save`
    Save,
}

impl Job {
    const ALL: [Self; 2] = [Self::Restore, Self::Save];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Save => "save",
        }
    }
}

/// The four tools of one flavour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    tools: Vec<(Family, Job, Tool)>,
}

impl Set {
    /// The tool of a family. A set has them all.
    pub fn tool(&self, family: Family, job: Job) -> Option<&Tool> {
        self.tools.iter().find(|(f, j, _)| (*f, *j) == (family, job)).map(|(_, _, tool)| tool)
    }
}

/// What the host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    /// Of the nft flavour.
    pub nft: Option<Set>,
    /// Of the legacy flavour.
    pub legacy: Option<Set>,
}

impl Tools {
    /// Looks in the directories of distributions, then in those of `path`. `ask` runs a program with `--version`: only where its
    /// name says nothing of its flavour.
    pub fn find(path: Option<OsString>, ask: impl Fn(&Tool) -> Option<String>) -> Self {
        let listed = path.unwrap_or_default();
        let listed = std::env::split_paths(&listed).filter(|directory| directory.is_absolute());
        let directories: Vec<PathBuf> = DIRECTORIES.into_iter().map(PathBuf::from).chain(listed).collect();
        Self::find_in(&directories, ask)
    }

    /// The same with the directories given.
    pub fn find_in(directories: &[PathBuf], ask: impl Fn(&Tool) -> Option<String>) -> Self {
        let first =
            |infix: &str, multi: &str| directories.iter().find_map(|directory| set(directory, infix, multi));
        let mut found = Self {
            nft: first("-nft", "xtables-nft-multi"),
            legacy: first("-legacy", "xtables-legacy-multi"),
        };
        if found.nft.is_none() || found.legacy.is_none() {
            // Names without a flavour; on a host that has both they are one of those above.
            for plain in directories.iter().filter_map(|directory| set(directory, "", "xtables-multi")) {
                match flavour(&plain, &ask) {
                    Some(Flavour::Nft) if found.nft.is_none() => found.nft = Some(plain),
                    Some(Flavour::Legacy) if found.legacy.is_none() => found.legacy = Some(plain),
                    _ => {}
                }
            }
        }
        found
    }

    /// The tools of a flavour.
    pub const fn of(&self, flavour: Flavour) -> Option<&Set> {
        match flavour {
            Flavour::Nft => self.nft.as_ref(),
            Flavour::Legacy => self.legacy.as_ref(),
        }
    }
}

/// All four tools of a directory, as files of their own or in one program.
fn set(directory: &Path, infix: &str, multi: &str) -> Option<Set> {
    let named = |family, job: Job, infix: &str| {
        let word = if family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{word}{infix}-{}", job.as_str())
    };
    let all = |tool: &dyn Fn(Family, Job) -> Option<Tool>| -> Option<Set> {
        let mut tools = Vec::new();
        for family in Family::ALL {
            for job in Job::ALL {
                tools.push((family, job, tool(family, job)?));
            }
        }
        Some(Set { tools })
    };
    let separate = all(&|family, job| {
        let name = named(family, job, infix);
        runnable(&directory.join(&name)).map(|program| Tool { program, name })
    });
    separate.or_else(|| {
        let program = runnable(&directory.join(multi))?;
        all(&|family, job| Some(Tool { program: program.clone(), name: named(family, job, "") }))
    })
}

/// The file, if it can be run. What is under `/run` is named by what it points to: a [`super::room`] hides `/run`.
fn runnable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(path).ok()?;
    let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    runs.then(|| if path.starts_with("/run") { fs::canonicalize(path).ok() } else { Some(path.to_owned()) })?
}

fn flavour(set: &Set, ask: impl Fn(&Tool) -> Option<String>) -> Option<Flavour> {
    let tool = set.tool(Family::V4, Job::Restore)?;
    let file = fs::canonicalize(&tool.program).ok()?;
    let name = file.file_name()?.to_str()?;
    if name.contains("nft") {
        return Some(Flavour::Nft);
    }
    if name.contains("legacy") || name == "xtables-multi" {
        return Some(Flavour::Legacy);
    }
    flavour_of_version(&ask(tool)?)
}

/// `iptables-restore v1.8.9 (nf_tables)`; before 1.8 there was only one flavour and nothing in brackets.
fn flavour_of_version(said: &str) -> Option<Flavour> {
    if said.contains("(nf_tables)") {
        Some(Flavour::Nft)
    } else if said.contains("(legacy)") || said.contains(" v1.") {
        Some(Flavour::Legacy)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn program(path: &Path) {
        fs::write(path, "#!/bin/false\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    const WORDS: [&str; 4] = ["iptables-restore", "iptables-save", "ip6tables-restore", "ip6tables-save"];

    #[test]
    fn names_and_what_they_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let directories = [dir.path().join("a"), dir.path().join("b")];
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        let never = |_: &Tool| -> Option<String> { panic!("nobody is to be asked") };
        assert_eq!(Tools::find_in(&directories, never), Tools::default());

        // Plain names that point to a program whose name says it.
        program(&directories[1].join("xtables-legacy-multi"));
        for word in WORDS {
            symlink("xtables-legacy-multi", directories[1].join(word)).unwrap();
        }
        let found = Tools::find_in(&directories, never);
        assert!(found.nft.is_none());
        let set = found.legacy.unwrap();
        let tool = set.tool(Family::V6, Job::Save).unwrap();
        assert_eq!(
            (tool.program.clone(), tool.name.as_str()),
            (directories[1].join("xtables-legacy-multi"), "ip6tables-save")
        );

        // One program for all.
        program(&directories[0].join("xtables-nft-multi"));
        let found = Tools::find_in(&directories, never);
        assert_eq!(found.nft.unwrap().tool(Family::V4, Job::Restore).unwrap().name, "iptables-restore");
        // A file that cannot be run is none.
        fs::set_permissions(directories[0].join("xtables-nft-multi"), fs::Permissions::from_mode(0o644))
            .unwrap();
        assert!(Tools::find_in(&directories, never).nft.is_none());
    }

    #[test]
    fn a_wrapper_is_asked_and_half_a_set_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let directories = [dir.path().to_owned()];
        for word in &WORDS[..3] {
            program(&dir.path().join(word));
        }
        let says = |text: &'static str| move |_: &Tool| Some(text.to_owned());
        assert_eq!(
            Tools::find_in(&directories, says("iptables-restore v1.8.9 (nf_tables)")),
            Tools::default()
        );
        program(&dir.path().join(WORDS[3]));
        assert!(Tools::find_in(&directories, says("iptables-restore v1.8.9 (nf_tables)")).nft.is_some());
        assert!(Tools::find_in(&directories, says("iptables-restore v1.6.1")).legacy.is_some());
        assert_eq!(Tools::find_in(&directories, says("what?")), Tools::default());
        assert_eq!(Tools::find_in(&directories, |_| None), Tools::default());
    }
}
