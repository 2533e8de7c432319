//! Documents in annotations: YAML or JSON, read with bounds. Scalars of YAML stay text: each key knows what it wants.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use shunt_api::entry::shortened;

use super::key::Bad;

/// Longest document, in bytes. Kubernetes allows 256 KiB in all annotations of a pod.
const BYTES: usize = 256 * 1024;
/// Deepest nesting.
const DEPTH: usize = 32;
/// Most memory that a document may take, about, in bytes; what aliases repeat is counted each time. Enough for every list of ports
/// and networks that fits into [`BYTES`].
const WEIGHT: usize = 5 * 1024 * 1024;
/// What a value takes beside its text, and a map however few keys it holds.
const VALUE: usize = 96;
const MAP: usize = 640;

/// How a document is written, which is how the mesh reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// YAML 1.2, of which JSON is a part.
    Yaml,
    /// The same by way of Go's `encoding/json`, which takes names in upper or lower case.
    GoYaml,
    /// JSON alone, by Go's `encoding/json`.
    GoJson,
}

/// A document.
#[derive(Debug)]
pub(crate) struct Document {
    root: Value,
    format: Format,
}

impl Document {
    /// The document in `text`. Nothing, or nothing but comments, is null.
    pub(crate) fn parse(format: Format, text: &str) -> Result<Self, Bad> {
        if text.len() > BYTES {
            return Err(format!("longer than {BYTES} bytes").into());
        }
        let root = match format {
            Format::Yaml | Format::GoYaml => yaml(text)?,
            // Its depth is bounded by the library.
            Format::GoJson => {
                weighed(0, weight_of_json(text))?;
                serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?
            }
        };
        Ok(Self { root, format })
    }

    /// All of it.
    pub(crate) const fn root(&self) -> &Value {
        &self.root
    }

    /// What is at `path`; none where there is nothing or null.
    ///
    /// # Errors
    /// A value on the way that holds no keys.
    pub(crate) fn at(&self, path: &str) -> Result<Option<&Value>, Bad> {
        let mut value = &self.root;
        let mut walked = 0;
        for name in path.split('.') {
            value = match value {
                Value::Null => return Ok(None),
                Value::Object(map) => match self.named(map, name) {
                    None => return Ok(None),
                    Some(value) => value,
                },
                other => {
                    let bad = Bad::from(format!("{} holds no keys", shortened(&other.to_string())));
                    let place = path.get(..walked).unwrap_or_default().trim_end_matches('.');
                    return Err(if place.is_empty() { bad } else { bad.at(place) });
                }
            };
            walked += name.len() + 1;
        }
        Ok((!value.is_null()).then_some(value))
    }

    fn named<'a>(&self, map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
        if self.format == Format::Yaml {
            return map.get(name);
        }
        // The last one wins.
        map.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A list or a map that is not at its end.
enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

/// The document as far as it is read.
#[derive(Default)]
struct Builder {
    open: Vec<(Open, usize)>,
    /// What aliases may repeat, by the parser's number: value and its weight.
    anchors: BTreeMap<usize, (Value, usize)>,
    weight: usize,
    root: Option<Value>,
}

fn yaml(text: &str) -> Result<Value, Bad> {
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| format!("not YAML: {error}"))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
        }
        if documents > 1 {
            return Err("more than one document".into());
        }
        builder.take(event).map_err(|why| format!("line {}: {why}", span.start.line()))?;
    }
    Ok(builder.root.unwrap_or(Value::Null))
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.done(if null { Value::Null } else { Value::String(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => self.opened(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.opened(Open::Map(Map::new(), None), anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((Open::List(list), anchor)) => self.done(Value::Array(list), anchor),
                Some((Open::Map(map, _), anchor)) => self.done(Value::Object(map), anchor),
                None => Ok(()),
            },
            Event::Alias(number) => self.repeat(number),
            _ => Ok(()),
        }
    }

    fn opened(&mut self, what: Open, anchor: usize) -> Result<(), String> {
        if self.open.len() >= DEPTH {
            return Err(format!("nested deeper than {DEPTH}"));
        }
        self.open.push((what, anchor));
        Ok(())
    }

    fn repeat(&mut self, number: usize) -> Result<(), String> {
        // The parser knows no other aliases than those of anchors before them; one inside its own anchor is not done yet.
        let (value, weight) = self.anchors.get(&number).ok_or("an alias of what it is in")?;
        // Before it is copied: that is what would take the memory.
        self.weight = weighed(self.weight, *weight)?;
        let value = value.clone();
        self.placed(value)
    }

    fn done(&mut self, value: Value, anchor: usize) -> Result<(), String> {
        self.weight = weighed(self.weight, own_weight(&value))?;
        if anchor > 0 {
            let weight = weight(&value);
            self.weight = weighed(self.weight, weight + VALUE)?;
            self.anchors.insert(anchor, (value.clone(), weight));
        }
        self.placed(value)
    }

    fn placed(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some((Open::List(list), _)) => list.push(value),
            Some((Open::Map(map, next), _)) => match next.take() {
                Some(key) => {
                    if map.insert(key.clone(), value).is_some() {
                        return Err(format!("key {:?} is there twice", shortened(&key)));
                    }
                }
                None => match value {
                    Value::String(key) if key == "<<" => return Err("merge keys are not read".to_owned()),
                    Value::String(key) => *next = Some(key),
                    Value::Null => *next = Some("null".to_owned()),
                    _ => return Err("a key is no text".to_owned()),
                },
            },
        }
        Ok(())
    }
}

fn weighed(before: usize, more: usize) -> Result<usize, String> {
    let weight = before.saturating_add(more);
    if weight > WEIGHT { Err(format!("takes more than {WEIGHT} bytes when read")) } else { Ok(weight) }
}

/// What a value takes without what it holds.
const fn own_weight(value: &Value) -> usize {
    match value {
        Value::Object(_) => MAP,
        Value::String(text) => VALUE + text.len(),
        _ => VALUE,
    }
}

/// What `value` takes. Aliases in aliases may be deeper than [`DEPTH`], but what is deep is heavy.
fn weight(value: &Value) -> usize {
    own_weight(value)
        + match value {
            Value::Array(list) => list.iter().map(weight).sum::<usize>(),
            Value::Object(map) => {
                map.iter().map(|(key, value)| VALUE + key.len() + weight(value)).sum::<usize>()
            }
            _ => 0,
        }
}

/// What a text of JSON will take at most: its values are counted by what stands between them.
fn weight_of_json(text: &str) -> usize {
    let weight = |byte| match byte {
        b'{' => MAP + VALUE,
        b'[' | b',' | b':' => VALUE,
        _ => 1,
    };
    text.bytes().map(weight).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};
    use serde_json::{Value, json};

    use super::{BYTES, Document, Format};

    fn yaml(text: &str) -> Result<Value, String> {
        Document::parse(Format::Yaml, text).map(|document| document.root).map_err(|bad| bad.why)
    }

    #[test]
    fn what_is_read() {
        for (text, value) in [
            ("", Value::Null),
            ("# a\n", Value::Null),
            ("---\n...\n", Value::Null),
            ("a: 1\nb: [x, 'null', null, ~]\n", json!({"a": "1", "b": ["x", "null", null, null]})),
            ("a:\n- {b: c}\n- |\n  d\n", json!({"a": [{"b": "c"}, "d\n"]})),
            (r#"{"a": {"b": true}, "c": []}"#, json!({"a": {"b": "true"}, "c": []})),
            ("a: &x [1]\nb: *x\n", json!({"a": ["1"], "b": ["1"]})),
            ("!!str 1", json!("1")),
            // Its first key is a key, whatever the editor put before it.
            ("\u{feff}a: 1", json!({"a": "1"})),
            ("%YAML 1.1\n---\na: yes\rb: 0x10", json!({"a": "yes", "b": "0x10"})),
        ] {
            assert_eq!(yaml(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_not() {
        let laughs = (1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, at| {
            format!("{text}a{at}: &a{at} [*a{0}, *a{0}]\n", at - 1)
        });
        let heavy = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(20_000));
        for (text, why) in [
            ("a: b: c", "not YAML"),
            ("a: [", "not YAML"),
            ("a: *b", "not YAML"),
            ("a: 1\n---\nb: 2\n", "more than one document"),
            // Nothing hides what follows.
            ("a: 1\n\0b: 2\n", "not YAML"),
            ("a: 1\n#\0\nb: 2\n", "not YAML"),
            ("a: 1\n...\nb: 2\n", "more than one document"),
            ("{a: 1}\nb: 2", "not YAML"),
            ("a: 1\u{85}b: 2", "not YAML"),
            ("\"a\": 1\n'a': 2\n", "key \"a\" is there twice"),
            ("a: 1\na: 2\n", "line 2: key \"a\" is there twice"),
            ("<<: {a: 1}", "merge keys"),
            ("[a]: b", "a key is no text"),
            ("a: &a [*a]", "an alias of what it is in"),
            (&"[".repeat(40), "nested deeper than 32"),
            (&"- ".repeat(40), "nested deeper than 32"),
            (&"x".repeat(BYTES + 1), "longer than"),
            (&laughs, "bytes when read"),
            (&heavy, "bytes when read"),
        ] {
            let error = yaml(text).expect_err(why);
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(Document::parse(Format::GoJson, "a: 1").is_err());
        assert!(Document::parse(Format::GoJson, &"[".repeat(10_000)).is_err());
    }

    /// The plugin is to stay small: what takes most for its length is refused, what somebody may want is not.
    #[test]
    fn memory_is_bounded() {
        let fill = |unit: &str| format!("[{}1]", unit.repeat((BYTES - 3) / unit.len()));
        for unit in ["{a},", "{a: b},", "1,", "&a {a},"] {
            assert!(yaml(&fill(unit)).is_err_and(|why| why.contains("bytes when read")), "{unit}");
        }
        for unit in [r#"{"":0},"#, "1,", "[],"] {
            assert!(
                Document::parse(Format::GoJson, &fill(unit))
                    .is_err_and(|bad| bad.why.contains("bytes when read"))
            );
        }
        for unit in ["65535,", "10.0.0.0/8,", "fd00:1234:5678::/48, "] {
            assert!(yaml(&fill(unit)).is_ok(), "{unit}");
        }
        for unit in ["65535,", "\"10.0.0.0/8\","] {
            assert!(Document::parse(Format::GoJson, &fill(unit)).is_ok(), "{unit}");
        }
    }

    /// ADD has seconds, and whoever writes a pod's annotations writes what he likes.
    #[test]
    fn nothing_takes_long() {
        let began = std::time::Instant::now();
        let units = [
            "a",
            "- ",
            "[",
            "{",
            "[]",
            "? ",
            "a: ",
            "&a ",
            "&a x\n",
            "- &a x\n",
            "!!a ",
            "'",
            "\"\\n\"",
            "\n",
            " ",
            "\t",
            "%",
            "--- ",
            "a: b\n",
            "- a\n",
            "# a\n",
            "|\n a\n",
            ",",
            "a,",
            "{a: ",
            "? a\n: b\n",
            "\u{a0}",
            "\u{1f600}",
            "&",
            "*a ",
            "a:",
        ];
        for unit in units {
            for before in ["", "[", "{", "- &a x\n", "\"", "a: |\n "] {
                let text = format!("{before}{}", unit.repeat((BYTES - before.len()) / unit.len()));
                let one = std::time::Instant::now();
                let _ = yaml(&text);
                assert!(one.elapsed().as_secs() < 5, "{before:?} {unit:?}: {:?}", one.elapsed());
            }
        }
        let anchors: String = (0..25_000).fold(String::new(), |text, at| text + &format!("- &a{at} x\n"));
        let text =
            format!("{}{}", anchors.get(..BYTES / 2).expect("long"), "- *a0\n".repeat(BYTES / 2 / 6 - 2));
        let _ = yaml(&text);
        assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_at_a_path() {
        let text = r#"{"a": {"B": 1, "b": 2, "c": null}, "d": [1]}"#;
        for (format, path, value) in [
            (Format::Yaml, "a.b", Some(json!("2"))),
            (Format::Yaml, "a.B", Some(json!("1"))),
            (Format::GoYaml, "A.B", Some(json!("2"))),
            (Format::GoJson, "a.b", Some(json!(2))),
            (Format::Yaml, "A.b", None),
            (Format::Yaml, "a.c", None),
            (Format::Yaml, "a.c.e", None),
        ] {
            let document = Document::parse(format, text).expect("valid");
            assert_eq!(document.at(path).expect("there").cloned(), value, "{path}");
        }
        let document = Document::parse(Format::Yaml, text).expect("valid");
        let bad = document.at("d.e").expect_err("a list");
        assert_eq!((bad.path.as_str(), bad.why.as_str()), ("d", "[\"1\"] holds no keys"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "([-:,?&*!|>'\"%@`#{}\\[\\] \n\ta-c0]|.){0,200}") {
            for format in [Format::Yaml, Format::GoYaml, Format::GoJson] {
                match Document::parse(format, &text) {
                    Ok(document) => prop_assert!(document.at("a.b").is_ok() || document.at("a.b").is_err()),
                    Err(bad) => prop_assert!(!bad.why.is_empty()),
                }
            }
        }
    }
}
