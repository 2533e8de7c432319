//! The tables as a page, `conf/meshes.md`. Only tests know of it: what the page says is no part of the program.

use std::fmt::Write as _;

use shunt_api::{Include, Mesh};

use super::key::{Act, FieldAct};
use super::{Profile, of};

/// What a row says beyond what it does.
#[derive(Debug)]
pub(crate) struct Row {
    /// A value that shows it: one that changes the plan, or one that is refused. In a document: a whole one.
    pub(crate) sample: &'static str,
    /// A value that is refused although the key is honoured; empty: there is none.
    pub(crate) but: &'static str,
    /// Where the key is defined or read: repository and path.
    pub(crate) source: &'static str,
    /// What becomes of it.
    pub(crate) says: &'static str,
}

/// Annotations that do not concern interception.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) keys: &'static [&'static str],
    pub(crate) sample: &'static str,
    pub(crate) source: &'static str,
    pub(crate) says: &'static str,
}

/// Keys in the document `key` that do not concern interception.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) key: &'static str,
    pub(crate) paths: &'static [&'static str],
    pub(crate) sample: &'static str,
    pub(crate) source: &'static str,
    pub(crate) says: &'static str,
}

/// What the page says of a mesh beyond its keys.
#[derive(Debug)]
pub(crate) struct Page {
    /// Repositories and commits that were read.
    pub(crate) sources: &'static str,
    /// The annotations of a pod that is meshed and says nothing more.
    pub(crate) base: &'static [(&'static str, &'static str)],
    /// The marker.
    pub(crate) selects: &'static str,
    pub(crate) others: &'static [Other],
    pub(crate) other_fields: &'static [Fields],
    /// What differs from the mesh's own rules.
    pub(crate) differs: &'static [&'static str],
}

/// How many keys there are of each sort.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) honoured: usize,
    /// Honoured, but for some values.
    pub(crate) in_part: usize,
    pub(crate) refused: usize,
    pub(crate) other: usize,
}

/// One line of the page's table of keys.
struct Line {
    name: String,
    becomes: &'static str,
    says: &'static str,
    source: &'static str,
}

const HONOURED: &str = "honoured";
const IN_PART: &str = "honoured, some values refused";
const REFUSED: &str = "refused";
const OTHER: &str = "does not concern interception";

fn becomes(refused: bool, row: &Row) -> &'static str {
    match (refused, row.but) {
        (true, _) => REFUSED,
        (false, "") => HONOURED,
        (false, _) => IN_PART,
    }
}

fn lines(profile: &Profile) -> Vec<Line> {
    let mut lines = Vec::new();
    for key in profile.keys {
        let fate = becomes(matches!(key.act, Act::Refused(_)), &key.row);
        lines.push(Line {
            name: format!("`{}`", key.name),
            becomes: fate,
            says: key.row.says,
            source: key.row.source,
        });
        if let Act::Holds(_, fields) = &key.act {
            for field in *fields {
                let fate = becomes(matches!(field.act, FieldAct::Refused(_)), &field.row);
                let name = format!("… `{}`", field.path);
                lines.push(Line { name, becomes: fate, says: field.row.says, source: field.row.source });
            }
            for fields in profile.page.other_fields.iter().filter(|fields| fields.key == key.name) {
                let name = listed("… ", fields.paths);
                lines.push(Line { name, becomes: OTHER, says: fields.says, source: fields.source });
            }
        }
    }
    for other in profile.page.others {
        lines.push(Line {
            name: listed("", other.keys),
            becomes: OTHER,
            says: other.says,
            source: other.source,
        });
    }
    lines
}

fn listed(before: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("{before}`{name}`")).collect::<Vec<_>>().join("<br>")
}

/// The keys of `mesh`, counted.
pub(crate) fn counted(mesh: Mesh) -> Count {
    let mut count = Count::default();
    for line in lines(of(mesh)) {
        let place = match line.becomes {
            HONOURED => &mut count.honoured,
            IN_PART => &mut count.in_part,
            REFUSED => &mut count.refused,
            _ => &mut count.other,
        };
        *place += line.name.split("<br>").count();
    }
    count
}

/// The whole page.
pub(crate) fn page() -> String {
    let mut page = String::from(HEAD);
    for mesh in Mesh::ALL {
        let Count { honoured, in_part, refused, other } = counted(*mesh);
        _ = writeln!(page, "| [`{mesh}`](#{mesh}) | {honoured} | {in_part} | {refused} | {other} |");
    }
    for mesh in Mesh::ALL {
        section(&mut page, *mesh);
    }
    page
}

const HEAD: &str = "\
# Every mesh, every key

<!-- Made from the tables in plugin/src/profile/. `SHUNT_BLESS=1 conf/cargo.sh test -p shunt --lib the_page` writes it. -->

What `mesh` in the entry stands for: how a meshed pod is known, where its proxy listens, whose connections are the
proxy's, and what becomes of each annotation the mesh has. The runtime hands over annotations of the pod and nothing
else; there is no API call. Annotations of namespaces, labels and the pod's containers are not seen.

- *honoured*: it changes what the pod gets. A value that makes no sense is an error with code 7 that names key and place.
- *refused*: a value that asks for something is an error with code 2 that names key and place. An empty one asks for nothing.
- *does not concern interception*: it is not looked at.

Precedence, key by key: our own annotations (`shunt-cni.io/…`, under every mesh), the mesh's, the entry, the defaults
below. A list takes the place of the list under it. What says \"not meshed\" below counts only under `select: annotated`; lists
count under `select: all` too, also one that leaves nothing to capture.

Documents (lines with … belong to the annotation above them) are read to 256 KiB, 32 levels, one document, and what
takes about 5 MiB when read, with what aliases repeat: 40,000 ports do not. Keys in them that are not listed are passed over.

| mesh | honoured | in part | refused | does not concern |
|---|---|---|---|---|
";

fn section(page: &mut String, mesh: Mesh) {
    let profile = of(mesh);
    _ = writeln!(
        page,
        "\n## {mesh}\n\nRead: {}.\n\nMeshed: {}.\n",
        profile.page.sources, profile.page.selects
    );
    page.push_str("| default | |\n|---|---|\n");
    for (name, value) in defaults(profile) {
        _ = writeln!(page, "| {name} | {value} |");
    }
    let lines = lines(profile);
    if !lines.is_empty() {
        page.push_str("\n| key | | what | source |\n|---|---|---|---|\n");
    }
    for Line { name, becomes, says, source } in lines {
        _ = writeln!(page, "| {name} | {becomes} | {says} | {source} |");
    }
    if !profile.page.differs.is_empty() {
        page.push_str("\nWhat differs from the mesh's own rules:\n\n");
    }
    for differs in profile.page.differs {
        _ = writeln!(page, "- {differs}");
    }
}

/// What the profile says by itself, in words.
fn defaults(profile: &Profile) -> Vec<(&'static str, String)> {
    let layer = (profile.defaults)();
    let redirect = layer.redirect;
    let mut rows = Vec::new();
    let port = |port: Option<std::num::NonZeroU16>| port.map(|port| port.to_string());
    let mut row = |name, value: Option<String>| {
        if let Some(value) = value {
            rows.push((name, value));
        }
    };
    row("outbound port", port(redirect.outbound_port));
    row("inbound port", port(redirect.inbound_port));
    row("DNS port", port(redirect.dns_port));
    row(
        "DNS is captured for",
        layer.dns_servers.map(|servers| match servers {
            Include::All => "every resolver".to_owned(),
            Include::Only(list) => joined(&list),
        }),
    );
    row(
        "DNS over TCP",
        redirect.dns_port.map(|_| match profile.dns_tcp {
            crate::plan::DnsTcp::Capture => "captured".to_owned(),
            crate::plan::DnsTcp::Pass => "passes".to_owned(),
        }),
    );
    row("proxy's user ids", redirect.proxy_uids.map(|ids| joined(&ids)));
    row("proxy's group ids", redirect.proxy_gids.map(|ids| joined(&ids)));
    row("user ids that are not captured", layer.exclude_uids.map(|ids| joined(&ids)));
    row("outbound ports that are not captured", redirect.exclude_outbound_ports.map(|list| joined(&list)));
    row("destinations that are not captured", redirect.exclude_outbound_cidrs.map(|list| joined(&list)));
    row(
        "inbound ports that are captured",
        redirect.include_inbound_ports.map(|ports| match ports {
            Include::All => "all".to_owned(),
            Include::Only(list) if list.is_empty() => "none".to_owned(),
            Include::Only(list) => joined(&list),
        }),
    );
    let when = if profile.include_beats_exclude { ", while all ports are included" } else { "" };
    row(
        "ports of the proxy itself, never captured inbound",
        layer.proxy_ports.map(|list| joined(&list) + when),
    );
    row("tunnel port, passes inbound", profile.tunnel_port.map(|port| port.to_string()));
    let yes = |yes: bool| Some(if yes { "yes" } else { "no" }.to_owned());
    row(
        "an app that calls itself through its service goes through the inbound port",
        yes(profile.self_calls),
    );
    row("connections to the pod's own addresses are captured", yes(profile.own_addresses));
    rows
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
