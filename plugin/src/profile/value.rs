//! Parsers of what meshes write, in annotations and in their documents, beyond those of [`crate::annotation`].

use std::num::NonZeroU16;
use std::str::FromStr;

use serde_json::Value;
use shunt_api::{Network, PortRange};

use super::key::Bad;
use crate::annotation::{ids, port, ports};

/// A scalar's text.
pub(crate) fn text(value: &Value) -> Result<String, Bad> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err("must be one value".into()),
    }
}

/// Yes or no as Go's `strconv.ParseBool` and YAML have it.
pub(crate) fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "y" | "on" => Ok(true),
        "false" | "f" | "0" | "no" | "n" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// The same, and the words that Kuma, OSM and Linkerd have for it.
pub(crate) fn enabled(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        other => flag(other).ok().ok_or_else(|| "must be enabled or disabled".to_owned()),
    }
}

/// Whether a text, there or not, says no in any of these words.
pub(crate) fn says_no(text: Option<&String>) -> bool {
    text.is_some_and(|text| enabled(text) == Ok(false))
}

/// One port.
pub(crate) fn one_port(value: &Value) -> Result<NonZeroU16, Bad> {
    Ok(port(&text(value)?)?)
}

/// One id.
pub(crate) fn one_id(text: &str) -> Result<Vec<u32>, String> {
    match ids(text) {
        Ok(list) if list.len() == 1 => Ok(list),
        _ => Err("must be one id (0-4294967294)".to_owned()),
    }
}

/// One or several items, or texts with several in them. Empty items are nothing.
pub(crate) fn items(value: &Value) -> Result<Vec<String>, Bad> {
    let texts = match value {
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(at, item)| text(item).map_err(|bad| bad.at(&format!("[{at}]"))))
            .collect::<Result<Vec<_>, _>>()?,
        one => vec![text(one)?],
    };
    let items = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    Ok(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

/// [`items`], each parsed.
pub(crate) fn parsed<T: FromStr<Err: ToString>>(value: &Value) -> Result<Vec<T>, Bad> {
    let parse = |item: String| item.parse::<T>().map_err(|error| Bad::from(error.to_string()));
    items(value)?.into_iter().map(parse).collect()
}

/// Ports of iptables' `--dport`: `80`, `8000:8999`, and `1024:` for the rest, or with a dash.
pub(crate) fn dports(value: &Value) -> Result<Vec<PortRange>, Bad> {
    items(value)?.iter().map(|item| dport(item)).collect()
}

fn dport(item: &str) -> Result<PortRange, Bad> {
    let range = match item.split_once(':') {
        None => item.to_owned(),
        Some((first, last)) => {
            let or = |text: &str, other: &str| {
                if text.trim().is_empty() { other.to_owned() } else { text.to_owned() }
            };
            format!("{}-{}", or(first, "1"), or(last, "65535"))
        }
    };
    Ok(range.parse::<PortRange>().map_err(|error| error.to_string())?)
}

/// A list in an annotation of which empty items are nothing, as Go's splitting of it leaves them.
pub(crate) fn loose<T: FromStr<Err: ToString>>(text: &str) -> Result<Vec<T>, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|error: T::Err| error.to_string())).collect()
}

/// A list of ports that may not be empty.
pub(crate) fn some_ports(text: &str) -> Result<Vec<PortRange>, String> {
    non_empty(ports(text)?)
}

/// A list of networks that may not be empty: as an inclusion it would turn everything off.
pub(crate) fn some_networks(text: &str) -> Result<Vec<Network>, String> {
    non_empty(crate::annotation::networks(text)?)
}

fn non_empty<T>(list: Vec<T>) -> Result<Vec<T>, String> {
    if list.is_empty() { Err("must not be empty".to_owned()) } else { Ok(list) }
}

/// `list` with what is new in `more` at its end.
pub(crate) fn extend<T: PartialEq>(list: &mut Option<Vec<T>>, more: Vec<T>) {
    let list = list.get_or_insert_default();
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}
