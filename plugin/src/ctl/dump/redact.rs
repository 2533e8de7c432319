//! What is secret does not leave the node: known by the name of its key, or by its form.

use serde_json::Value;

/// What stands in its place.
const REDACTED: &str = "[redacted]";

/// Parts of names of keys whose values are secret, in small letters and without what separates words.
const NAMES: [&str; 14] = [
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "credential",
    "apikey",
    "accesskey",
    "privatekey",
    "clientkey",
    "certificate",
    "cadata",
    "authorization",
    "cookie",
];

/// The same of JSON.
pub(super) fn redacted(value: &Value) -> Value {
    match value {
        Value::Object(object) => object
            .iter()
            .map(|(key, value)| {
                let hide = is_secret_name(key) && !is_harmless(value);
                (key.clone(), if hide { Value::from(REDACTED) } else { redacted(value) })
            })
            .collect(),
        Value::Array(list) => list.iter().map(redacted).collect(),
        Value::String(text) => Value::from(redacted_text(text)),
        other => other.clone(),
    }
}

/// A line of a log: JSON, or any text.
pub(super) fn redacted_line(line: &str) -> String {
    match serde_json::from_str::<Value>(line) {
        Ok(value @ Value::Object(_)) => redacted(&value).to_string(),
        _ => redacted_text(line),
    }
}

fn is_secret_name(key: &str) -> bool {
    let plain: String =
        key.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    // The path of a file is not what is in it; the last of ours is a number of a namespace.
    let is_path = ["path", "file", "dir"].iter().any(|end| plain.ends_with(end));
    !is_path && NAMES.iter().any(|name| plain.contains(name))
}

/// Numbers and switches are no secrets.
fn is_harmless(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(_) | Value::Number(_))
}

/// Takes out of a text what looks like a secret, word by word.
fn redacted_text(text: &str) -> String {
    if text.contains("-----BEGIN ") {
        return REDACTED.to_owned();
    }
    if let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
        return redacted(&value).to_string();
    }
    let mut clean = String::with_capacity(text.len());
    let mut hide_next = false;
    for word in text.split_inclusive(|c: char| c.is_whitespace() || "\"',;()[]{}<>".contains(c)) {
        let end = word.trim_end_matches(|c: char| c.is_whitespace() || "\"',;()[]{}<>".contains(c)).len();
        let (core, rest) = word.split_at_checked(end).unwrap_or((word, ""));
        let (name, value) = core.split_once(['=', ':']).unwrap_or(("", core));
        let named = !value.is_empty() && is_secret_name(name);
        if !core.is_empty() && (hide_next || is_secret(core)) {
            clean.push_str(REDACTED);
        } else if named || is_secret(value) {
            clean.push_str(core.get(..core.len() - value.len()).unwrap_or_default());
            clean.push_str(REDACTED);
        } else {
            clean.push_str(&without_password(core));
        }
        clean.push_str(rest);
        if !core.is_empty() {
            // `Authorization: Bearer …`, `--token …`, `password: …`
            let is_flag = core.starts_with("--") && is_secret_name(core);
            hide_next = core.eq_ignore_ascii_case("bearer")
                || core.eq_ignore_ascii_case("basic")
                || is_flag && !core.contains('=')
                || value.is_empty() && is_secret_name(name);
        }
    }
    clean
}

/// A JSON web token, a key of a cloud, or base64 that is longer than any name.
fn is_secret(word: &str) -> bool {
    let is_token = word.starts_with("eyJ") && word.matches('.').count() >= 1;
    let is_key =
        ["AKIA", "ASIA", "ghp_", "glpat-", "xoxb-", "sk-"].iter().any(|begin| word.starts_with(begin))
            && word.len() >= 16;
    // Container ids and digests are hexadecimal; paths have slashes, and dots or dashes.
    let is_base64 = word.len() >= 40
        && !word.starts_with('/')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte))
        && !word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && word.bytes().any(|byte| byte.is_ascii_uppercase())
        && word.bytes().any(|byte| byte.is_ascii_lowercase())
        && word.bytes().any(|byte| byte.is_ascii_digit());
    is_token || is_key || is_base64
}

/// `https://user:password@host` without the second.
fn without_password(word: &str) -> String {
    let parts = word.split_once("://").and_then(|(scheme, rest)| {
        let (user, host) = rest.split_once('@')?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}:{REDACTED}@{host}"))
    });
    parts.unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{REDACTED, redacted, redacted_line};

    #[test]
    fn by_the_name_of_the_key() {
        let list = json!({
            "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig", "k8s_auth_token": "abc", "token_file": "/a"},
            "etcd_key_file": "/k", "clientCertificateData": "x", "certificate-authority-data": ["y"],
            "passWord": "p", "tokens": 3, "API-Key": "z", "type": "calico", "mtu": 1500
        });
        assert_eq!(
            redacted(&list),
            json!({
                "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig", "k8s_auth_token": REDACTED, "token_file": "/a"},
                "etcd_key_file": "/k", "clientCertificateData": REDACTED, "certificate-authority-data": REDACTED,
                "passWord": REDACTED, "tokens": 3, "API-Key": REDACTED, "type": "calico", "mtu": 1500
            })
        );
    }

    #[test]
    fn by_its_form() {
        let long = format!("{}==", "Zb3".repeat(20));
        for (line, clean) in [
            ("nothing to see: 10.0.0.1:80, /a/b", "nothing to see: 10.0.0.1:80, /a/b"),
            ("call with Bearer abc.def", "call with Bearer [redacted]"),
            ("x eyJhbGciOi.J9 y", "x [redacted] y"),
            ("--token hunter2 rest", "--token [redacted] rest"),
            ("password: hunter2 user: a", "password: [redacted] user: a"),
            (r#"{"a":{"password":"b"}}"#, r#"{"a":{"password":"[redacted]"}}"#),
            ("password=hunter2, user=a", "password=[redacted], user=a"),
            ("at https://me:hunter2@host/x", "at https://me:[redacted]@host/x"),
            ("-----BEGIN CERTIFICATE-----\nabc", REDACTED),
            (&format!("k: {long}"), "k: [redacted]"),
            (&"0af1".repeat(30), &"0af1".repeat(30)),
        ] {
            assert_eq!(redacted_line(line), clean, "{line}");
        }
        let line = json!({"msg": "added", "token": "t", "details": "Bearer abc"}).to_string();
        assert_eq!(
            redacted_line(&line),
            json!({"msg": "added", "token": REDACTED, "details": "Bearer [redacted]"}).to_string()
        );
    }
}
