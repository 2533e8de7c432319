//! A list that may also be "everything".

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Everything (`"*"`), or only what is listed. An empty list is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Include<T> {
    /// Everything; written `"*"`.
    All,
    /// These only; written as a list.
    Only(Vec<T>),
}

impl<T> Include<T> {
    /// The same with each element converted.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Include<U> {
        match self {
            Self::All => Include::All,
            Self::Only(list) => Include::Only(list.into_iter().map(convert).collect()),
        }
    }

    /// Whether this is everything.
    pub const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl<T: Serialize> Serialize for Include<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("*"),
            Self::Only(list) => list.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Include<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Written<T> {
            type Value = Include<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"*\" or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == "*" {
                    Ok(Include::All)
                } else {
                    Err(E::custom(format_args!("{text:?} is neither \"*\" nor a list")))
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Include::Only(list))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
                Err(E::custom("null is neither \"*\" nor a list"))
            }
        }

        deserializer.deserialize_any(Written(PhantomData))
    }
}
