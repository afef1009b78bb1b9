//! JSON as what is configured is read from. In: a value. Out: a type of [`crate::wire`], or the field that is missing.
//! Errors have no text: it would quote values, which may be secrets, and to write it takes a module a tenth of what it may
//! weigh. Pure.

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// That a value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable")]
pub(super) struct Unreadable {
    /// For want of this field, at whatever depth.
    pub(super) missing: Option<&'static str>,
}

/// Reads an object.
pub(super) fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Unreadable> {
    T::deserialize(Node(Value::Object(fields)))
}

struct Node(Value);

const UNREADABLE: Unreadable = Unreadable { missing: None };

impl Error for Unreadable {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        UNREADABLE
    }

    fn invalid_type(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        UNREADABLE
    }

    fn invalid_value(_: Unexpected<'_>, _: &dyn Expected) -> Self {
        UNREADABLE
    }

    fn invalid_length(_: usize, _: &dyn Expected) -> Self {
        UNREADABLE
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        UNREADABLE
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        UNREADABLE
    }

    fn duplicate_field(_: &'static str) -> Self {
        UNREADABLE
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field) }
    }
}

impl IntoDeserializer<'_, Unreadable> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Unreadable;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::String(value) => visitor.visit_string(value),
            Value::Number(value) => match (value.as_u64(), value.as_i64(), value.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i64(value),
                (None, None, Some(value)) => visitor.visit_f64(value),
                (None, None, None) => Err(UNREADABLE),
            },
            Value::Array(all) => {
                let mut all = SeqDeserializer::new(all.into_iter().map(Node));
                let value = visitor.visit_seq(&mut all)?;
                all.end().map(|()| value)
            }
            Value::Object(fields) => {
                let mut fields = nodes(fields);
                let value = visitor.visit_map(&mut fields)?;
                fields.end().map(|()| value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(variant.into_deserializer()),
            Value::Object(fields) if fields.len() == 1 => visitor.visit_enum(MapAccessDeserializer::new(nodes(fields))),
            _ => Err(UNREADABLE),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

type Nodes<'de> =
    MapDeserializer<'de, std::iter::Map<serde_json::map::IntoIter, fn((String, Value)) -> (String, Node)>, Unreadable>;

fn nodes<'de>(fields: Map<String, Value>) -> Nodes<'de> {
    MapDeserializer::new(fields.into_iter().map(|(key, value)| (key, Node(value))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::wire::limit::Policy;
    use crate::wire::{Ends, Policy as Quota};

    fn read<T: DeserializeOwned>(value: Value) -> Result<T, Option<&'static str>> {
        let Value::Object(fields) = value else { panic!("{value}") };
        parse(fields).map_err(|Unreadable { missing }| missing)
    }

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let limits = json!({
            "store": null, "ruleName": "r", "paths": ["/v1"], "global": [{"tokens": 9, "windowSeconds": 1}],
            "rules": [{"by": {"ip": {"fromHeader": "x"}}, "limits": [
                {"match": "any", "tokens": -1, "windowSeconds": 60},
                {"match": {"exact": "vip"}, "tokens": 9_007_199_254_740_991_i64, "windowSeconds": 60}
            ]}],
            "rejection": {"code": 503, "message": "later"},
            "ends": {"mode": "Observe", "rateLimitHeaders": true, "errors": "OpenAI"}
        });
        assert_eq!(read::<Policy>(limits.clone()).unwrap(), serde_json::from_value(limits).unwrap());
        let map = json!({"a": {"b": [1, -1, 1.5, "x", null, true]}});
        assert_eq!(read::<BTreeMap<String, Value>>(map.clone()).unwrap(), serde_json::from_value(map).unwrap());
    }

    #[test]
    fn what_serde_json_refuses_is_refused_and_a_field_that_is_missing_is_named() {
        assert_eq!(read::<Policy>(json!({"ruleName": "r"})), Err(Some("paths")));
        assert_eq!(read::<Quota>(json!({})), Err(Some("keyPrefix")));
        for wrong in [
            json!({"mode": "Off"}),
            json!({"mode": {"Observe": null, "Enforce": null}}),
            json!({"mode": {}}),
            json!({"mode": 1}),
            json!({"surprise": 1}),
            json!({"rateLimitHeaders": 1.5}),
            json!({"errors": ["OpenAI"]}),
        ] {
            assert_eq!(read::<Ends>(wrong.clone()), Err(None), "{wrong}");
            assert!(serde_json::from_value::<Ends>(wrong).is_err());
        }
    }
}
