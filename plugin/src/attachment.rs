//! One container on one interface: what every record, pin and map entry of ours is named after.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest container id we take. CNI sets no limit, but ids become file names; containerd's and CRI-O's have 64 bytes.
pub const CONTAINER_ID_MAX: usize = 128;

/// Longest [`Attachment::pin_name`], so that suffixes still fit into the 255 bytes of a file name.
pub const PIN_NAME_MAX: usize = 200;

/// `IFNAMSIZ` less the terminating zero.
const IFNAME_MAX: usize = 15;

/// Container id and interface name, both checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Attachment {
    container_id: String,
    ifname: String,
}

/// Why a container id or an interface name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachmentError {
    /// Not `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, or longer than [`CONTAINER_ID_MAX`].
    #[error(
        "container id {0:?} is not 1 to {CONTAINER_ID_MAX} letters, digits, '_', '.' or '-' that begin with a letter or digit"
    )]
    ContainerId(String),
    /// Nothing the kernel would accept as an interface name.
    #[error(
        "interface name {0:?} is not 1 to {IFNAME_MAX} bytes without '/', ':' and white space, other than '.' and '..'"
    )]
    Ifname(String),
    /// Both are right, but with their special characters written out they are no file name any more.
    #[error("container id {0:?} with so many dots does not fit into a file name")]
    TooLong(String),
}

#[derive(Deserialize)]
struct Written {
    container_id: String,
    ifname: String,
}

impl TryFrom<Written> for Attachment {
    type Error = AttachmentError;

    fn try_from(written: Written) -> Result<Self, AttachmentError> {
        Self::new(&written.container_id, &written.ifname)
    }
}

impl Attachment {
    /// Checks both as CNI's `skel` does, and the length of the id.
    pub fn new(container_id: &str, ifname: &str) -> Result<Self, AttachmentError> {
        if !is_container_id(container_id) {
            return Err(AttachmentError::ContainerId(shunt_api::entry::shortened(container_id)));
        }
        if !is_ifname(ifname) {
            return Err(AttachmentError::Ifname(shunt_api::entry::shortened(ifname)));
        }
        let attachment = Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
        if attachment.pin_name().len() > PIN_NAME_MAX {
            return Err(AttachmentError::TooLong(container_id.to_owned()));
        }
        Ok(attachment)
    }

    /// `CNI_CONTAINERID`: the sandbox's id.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// `CNI_IFNAME`: the interface inside the pod.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// A file name for this attachment and no other: at most [`PIN_NAME_MAX`] bytes of `[A-Za-z0-9_%@-]`, and so without
    /// the dot that a bpf file system forbids. Every other byte is written `%XX`; `@` stands between id and interface.
    pub fn pin_name(&self) -> String {
        format!("{}@{}", escaped(&self.container_id), escaped(&self.ifname))
    }
}

impl Attachment {
    /// The attachment whose [`Self::pin_name`] is `name`, if there is one.
    pub fn of_pin_name(name: &str) -> Option<Self> {
        let (id, ifname) = name.split_once('@')?;
        Self::new(&unescaped(id)?, &unescaped(ifname)?)
            .ok()
            .filter(|attachment| attachment.pin_name() == name)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.container_id, self.ifname)
    }
}

/// Whether `text` is a container id or, by the same rule but without its limit of length, a network name.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Whether `text` is a container id we take.
pub(crate) fn is_container_id(text: &str) -> bool {
    is_identifier(text) && text.len() <= CONTAINER_ID_MAX
}

/// Whether the kernel would accept `text` as an interface name.
pub(crate) fn is_ifname(text: &str) -> bool {
    let blank_or_special = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    !text.is_empty()
        && text.len() <= IFNAME_MAX
        && text != "."
        && text != ".."
        && !text.contains(blank_or_special)
}

/// The part of an [`Attachment::pin_name`] that all attachments of one container have.
pub(crate) fn container_in(pin_name: &str) -> &str {
    pin_name.split_once('@').map_or(pin_name, |(container, _)| container)
}

fn escaped(text: &str) -> String {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let digit = |value: u8| HEX.get(usize::from(value & 15)).copied().unwrap_or('0');
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.extend(['%', digit(byte >> 4), digit(byte)]);
        }
    }
    name
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Attachment, PIN_NAME_MAX};

    #[test]
    fn names() {
        for (id, ifname, name) in [
            ("abc", "eth0", "abc@eth0"),
            ("a.b_c-d", "net1.100", "a%2Eb_c-d@net1%2E100"),
            ("A", "ü@%", "A@%C3%BC%40%25"),
        ] {
            let attachment = Attachment::new(id, ifname).expect("valid");
            assert_eq!(attachment.pin_name(), name);
            assert_eq!(Attachment::of_pin_name(name), Some(attachment));
        }
    }

    #[test]
    fn what_is_refused() {
        let long = "a".repeat(129);
        let dots = format!("a{}", ".".repeat(127));
        for (id, ifname) in [
            ("", "eth0"),
            ("..", "eth0"),
            (".a", "eth0"),
            ("_a", "eth0"),
            ("-a", "eth0"),
            ("a/b", "eth0"),
            ("a b", "eth0"),
            ("a\0", "eth0"),
            ("ä", "eth0"),
            ("a\n", "eth0"),
            (long.as_str(), "eth0"),
            (dots.as_str(), "eth0"),
            ("a", ""),
            ("a", "."),
            ("a", ".."),
            ("a", "a/b"),
            ("a", "a:b"),
            ("a", "a b"),
            ("a", "a\tb"),
            ("a", "0123456789abcdef"),
        ] {
            assert!(Attachment::new(id, ifname).is_err(), "{id:?} {ifname:?}");
        }
        assert!(Attachment::new(&"a".repeat(128), "0123456789abcde").is_ok());
    }

    #[test]
    fn a_record_cannot_smuggle_a_name() {
        assert!(serde_json::from_str::<Attachment>(r#"{"container_id":"../x","ifname":"eth0"}"#).is_err());
        let attachment = Attachment::new("a.b", "eth0").expect("valid");
        let text = serde_json::to_string(&attachment).expect("plain");
        assert_eq!(serde_json::from_str::<Attachment>(&text).expect("valid"), attachment);
    }

    proptest! {
        #[test]
        fn one_name_one_attachment(
            a in "[a-c.%@_-]{1,4}", b in "[a-c.%@_2E-]{1,4}", c in "[a-c.%@_-]{1,4}", d in "[a-c.%@_2E-]{1,4}",
        ) {
            if let (Ok(one), Ok(other)) = (Attachment::new(&a, &b), Attachment::new(&c, &d)) {
                prop_assert_eq!(one == other, one.pin_name() == other.pin_name());
            }
        }

        #[test]
        fn a_name_is_a_file_name(id in "\\PC{0,140}", ifname in "\\PC{0,16}") {
            if let Ok(attachment) = Attachment::new(&id, &ifname) {
                let name = attachment.pin_name();
                prop_assert_eq!(Attachment::of_pin_name(&name), Some(attachment));
                prop_assert!(name.len() <= PIN_NAME_MAX);
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-%@".contains(&byte)));
                prop_assert_eq!(name.matches('@').count(), 1);
            }
        }
    }
}
