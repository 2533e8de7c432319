//! The tables of keys: what a mesh can say, and what becomes of it. A row per key; the tables are all there is to know.

use serde_json::Value;
use shunt_api::entry::shortened;

use super::document::{Document, Format};
use crate::cni::Annotations;
use crate::error::{Error, Kind};
use crate::policy::Layer;

/// One annotation of a mesh.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) act: Act,
    /// What the page says of it.
    #[cfg(test)]
    pub(crate) row: super::table::Row,
}

/// What becomes of an annotation.
#[derive(Debug)]
pub(crate) enum Act {
    /// The profile's gate reads it.
    Marks,
    /// It sets a part of the layer.
    Sets(fn(&str, &mut Layer) -> Result<(), Bad>),
    /// It is refused when this is true of its value.
    Refused(fn(&str) -> Result<bool, Bad>),
    /// It is a document with keys of its own.
    Holds(Format, &'static [Field]),
}

/// One key in a document.
#[derive(Debug)]
pub(crate) struct Field {
    /// Where it is: names with dots between them.
    pub(crate) path: &'static str,
    pub(crate) act: FieldAct,
    #[cfg(test)]
    pub(crate) row: super::table::Row,
}

/// What becomes of a key in a document. null is not there.
#[derive(Debug)]
pub(crate) enum FieldAct {
    /// The profile's gate reads it.
    Marks,
    /// It sets a part of the layer, and may look elsewhere in the document.
    Sets(fn(&Value, &Document, &mut Layer) -> Result<(), Bad>),
    /// It is refused when this is true of its value.
    Refused(fn(&Value) -> bool),
}

/// Why a value is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) kind: Kind,
    /// Where in the value; empty for the whole.
    pub(crate) path: String,
    pub(crate) why: String,
}

impl From<String> for Bad {
    fn from(why: String) -> Self {
        Self { kind: Kind::Config, path: String::new(), why }
    }
}

impl From<&str> for Bad {
    fn from(why: &str) -> Self {
        Self::from(why.to_owned())
    }
}

impl Bad {
    /// For a good value that cannot be served.
    pub(crate) fn unavailable() -> Self {
        Self { kind: Kind::Unsupported, ..Self::from("not available in this version") }
    }

    /// The same, in the part of the value that `place` names: `name` or `[3]`.
    pub(crate) fn at(self, place: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{place}{dot}{}", self.path), ..self }
    }

    /// The error, of annotation `key` with `value`.
    pub(crate) fn of(self, key: &str, value: &str) -> Error {
        let place = if self.path.is_empty() { String::new() } else { format!(" {}:", shortened(&self.path)) };
        Error::new(
            self.kind,
            format!("annotation {}:{place} {:?}: {}", shortened(key), shortened(value), self.why),
        )
    }
}

/// Who watches while annotations become a layer and layers a plan. Nothing is done for one who does not look.
pub(crate) trait Watch {
    /// The annotation `key`, or what stands at `path` in it, is about to set what it sets in `to`.
    fn step(
        &mut self,
        key: &'static str,
        path: Option<&'static str>,
        set: &dyn Fn(&mut Layer) -> Result<(), Bad>,
        to: &mut Layer,
    ) -> Result<(), Bad>;

    /// The layers above and below the mesh's annotations, before they are merged.
    fn layers(&mut self, own: &Layer, entry: &Layer, defaults: &Layer);
}

/// Nobody watches.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Watch for Nobody {
    fn step(
        &mut self,
        _key: &'static str,
        _path: Option<&'static str>,
        set: &dyn Fn(&mut Layer) -> Result<(), Bad>,
        to: &mut Layer,
    ) -> Result<(), Bad> {
        set(to)
    }

    fn layers(&mut self, _own: &Layer, _entry: &Layer, _defaults: &Layer) {}
}

/// The layer that the annotations of `table` make.
///
/// # Errors
/// [`Kind::Config`] for a bad value and [`Kind::Unsupported`] for one that cannot be served; both name the key, the place in
/// its value and the value.
pub(crate) fn layer(
    table: &[Key],
    annotations: &Annotations,
    watch: &mut impl Watch,
) -> Result<Layer, Error> {
    let mut layer = Layer::default();
    for key in table {
        if let Some(value) = annotations.get(key.name) {
            read(key, value, watch, &mut layer).map_err(|bad| bad.of(key.name, value))?;
        }
    }
    Ok(layer)
}

fn read(key: &Key, value: &str, watch: &mut impl Watch, to: &mut Layer) -> Result<(), Bad> {
    match &key.act {
        Act::Sets(set) => watch.step(key.name, None, &|to| set(value, to), to),
        Act::Refused(refused) if refused(value)? => Err(Bad::unavailable()),
        Act::Marks | Act::Refused(_) => Ok(()),
        Act::Holds(format, fields) => {
            let document = Document::parse(*format, value)?;
            fields.iter().try_for_each(|field| read_field(key.name, field, &document, watch, to))
        }
    }
}

fn read_field(
    key: &'static str,
    field: &Field,
    document: &Document,
    watch: &mut impl Watch,
    to: &mut Layer,
) -> Result<(), Bad> {
    let Some(value) = document.at(field.path)? else { return Ok(()) };
    let read = match &field.act {
        FieldAct::Sets(set) => watch.step(key, Some(field.path), &|to| set(value, document, to), to),
        FieldAct::Refused(refused) if refused(value) => Err(Bad::unavailable()),
        FieldAct::Marks | FieldAct::Refused(_) => Ok(()),
    };
    read.map_err(|bad| {
        // The value of the annotation is a whole document: say what stands at the path.
        let why = format!("{}: {}", shortened(&value.to_string()), bad.why);
        Bad { why, ..bad.at(field.path) }
    })
}

/// A row of a table of keys. Its last three parts are for the page and for the tests alone: a value that shows what the key does, where
/// the key is defined, what becomes of it. `but` is a value that is refused although the key is honoured.
macro_rules! key {
    ($name:expr, $act:expr, $sample:expr, $source:expr, $says:expr) => {
        $crate::profile::key::key!($name, $act, $sample, but "", $source, $says)
    };
    ($name:expr, $act:expr, $sample:expr, but $but:expr, $source:expr, $says:expr) => {
        $crate::profile::key::Key {
            name: $name,
            act: $act,
            #[cfg(test)]
            row: $crate::profile::table::Row { sample: $sample, but: $but, source: $source, says: $says },
        }
    };
}

/// The same for a key in a document. The samples are whole documents.
macro_rules! field {
    ($path:expr, $act:expr, $sample:expr, $source:expr, $says:expr) => {
        $crate::profile::key::field!($path, $act, $sample, but "", $source, $says)
    };
    ($path:expr, $act:expr, $sample:expr, but $but:expr, $source:expr, $says:expr) => {
        $crate::profile::key::Field {
            path: $path,
            act: $act,
            #[cfg(test)]
            row: $crate::profile::table::Row { sample: $sample, but: $but, source: $source, says: $says },
        }
    };
}

pub(crate) use {field, key};
