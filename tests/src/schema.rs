//! JSON against a JSON Schema: as much of the language as our schemas are written in. A word that is not known here is an error, so
//! that nothing a schema says goes unchecked.

use serde_json::{Map, Value};

/// The schema of what a command of `shuntctl` prints, from `conf/schemas`.
#[track_caller]
pub fn of(command: &str) -> Value {
    let path = format!("{}/../conf/schemas/{command}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Stops a test if `value` is not as `schema` says.
#[track_caller]
pub fn hold(schema: &Value, value: &Value) {
    assert_eq!(violations(schema, value), Vec::<String>::new(), "{value:#}");
}

/// What of `value` is not as `schema` says, each with its place.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { root: schema, found: &mut found }.check(schema, value, "");
    found
}

struct Check<'a> {
    root: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn check(&mut self, schema: &Value, value: &Value, at: &str) {
        let words = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object: {schema}"));
        for (word, meant) in words {
            match word.as_str() {
                // The last two are looked at together, below.
                "$schema" | "$defs" | "title" | "description" | "properties" | "additionalProperties" => {}
                "$ref" => {
                    let path =
                        meant.as_str().and_then(|path| path.strip_prefix('#')).expect("a local reference");
                    let target = self.root.pointer(path).unwrap_or_else(|| panic!("{path} is nowhere"));
                    self.check(target, value, at);
                }
                "const" => self.expect(meant == value, at, value, meant),
                "enum" => self.expect(list(meant).contains(value), at, value, meant),
                "type" => {
                    let is = |name: &Value| is_of(name.as_str().unwrap_or_default(), value);
                    let fits = if meant.is_array() { list(meant).iter().any(is) } else { is(meant) };
                    self.expect(fits, at, value, meant);
                }
                "anyOf" => {
                    let fits = |schema: &Value| {
                        let mut found = Vec::new();
                        Check { root: self.root, found: &mut found }.check(schema, value, at);
                        found.is_empty()
                    };
                    let any = list(meant).iter().any(fits);
                    self.expect(any, at, value, meant);
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(meant, item, &format!("{at}/{index}"));
                    }
                }
                "required" => {
                    for name in list(meant) {
                        let is_there = value.get(name.as_str().unwrap_or_default()).is_some();
                        self.expect(is_there || !value.is_object(), at, name, &Value::from("must be there"));
                    }
                }
                other => panic!("{at}: {other:?} is not checked here"),
            }
        }
        self.properties(words, value, at);
    }

    fn properties(&mut self, words: &Map<String, Value>, value: &Value, at: &str) {
        let properties = words.get("properties").and_then(Value::as_object);
        for (name, value) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            match (properties.and_then(|properties| properties.get(name)), words.get("additionalProperties"))
            {
                (None, Some(Value::Bool(false))) => self.found.push(format!("{at}: is not described")),
                (Some(schema), _) | (None, Some(schema)) => self.check(schema, value, &at),
                (None, None) => {}
            }
        }
    }

    fn expect(&mut self, fits: bool, at: &str, value: &Value, meant: &Value) {
        if !fits {
            self.found.push(format!("{at}: {value} is not {meant}"));
        }
    }
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list"))
}

fn is_of(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other:?} is no type known here"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::violations;

    #[test]
    fn what_is_not_as_described_is_named() {
        let schema = json!({
            "type": "object", "required": ["a"], "additionalProperties": false,
            "properties": {
                "a": {"$ref": "#/$defs/n"}, "b": {"type": "array", "items": {"enum": [1, 2]}},
                "c": {"anyOf": [{"type": "null"}, {"const": 3}]}, "d": {"type": "object", "additionalProperties": {"type": "string"}}
            },
            "$defs": {"n": {"type": ["integer", "null"]}}
        });
        for (value, places) in [
            (json!({"a": 1, "b": [1, 2], "c": 3, "d": {"x": "y"}}), &[][..]),
            (json!({"a": null, "c": null}), &[]),
            (json!({}), &[""]),
            (json!([]), &[""]),
            (json!({"a": "x"}), &["/a"]),
            (json!({"a": 1, "b": [1, 3]}), &["/b/1"]),
            (json!({"a": 1, "c": 4}), &["/c"]),
            (json!({"a": 1, "d": {"x": 1}}), &["/d/x"]),
            (json!({"a": 1, "e": 1}), &["/e"]),
        ] {
            let found = violations(&schema, &value);
            let at: Vec<&str> = found.iter().filter_map(|line| line.split(':').next()).collect();
            assert_eq!(at, places, "{value}: {found:?}");
        }
    }
}
