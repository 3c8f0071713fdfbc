//! What a client sent, parsed: bytes in, a request or a named mistake out. Knows no network, store or clock.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Pairs in `metaData`, as in the schema of a Broadcast.
const MAX_METADATA: usize = 32;
/// Characters in a name of a pair.
const MAX_METADATA_KEY: usize = 64;
/// Characters in a value of a pair.
const MAX_METADATA_VALUE: usize = 1024;

/// A request to create a broadcast. What the client left blank is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Create {
    pub stream_id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub category: Option<String>,
    pub listener_hook_url: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// What is wrong with a request. Shows fields, never their values: a URL may carry a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the body is not JSON: line {line}, column {column}")]
    NotJson { line: usize, column: usize },
    #[error("the body must be a JSON object")]
    NotAnObject,
    #[error("{field} must be a string")]
    NotAString { field: &'static str },
    #[error("{field} must be at most {most} characters")]
    TooLong { field: &'static str, most: usize },
    #[error("type must be liveStream: nothing else is served here")]
    Type,
    #[error("metaData must be a JSON object, or the text of one")]
    Metadata,
    #[error(
        "metaData must have at most {MAX_METADATA} pairs of a name of {MAX_METADATA_KEY} and a value of {MAX_METADATA_VALUE} characters"
    )]
    MetadataSize,
}

/// Parses a request to create a broadcast. No body, and the body `null`, ask for a broadcast without a name; fields that
/// are not known are ignored.
///
/// # Errors
/// When it is no JSON object, or a known field is of the wrong type or size.
pub fn parse(body: &[u8]) -> Result<Create, Invalid> {
    if body.trim_ascii().is_empty() {
        return Ok(Create::default());
    }
    let value = serde_json::from_slice(body)
        .map_err(|error| Invalid::NotJson { line: error.line(), column: error.column() })?;
    let object = match value {
        Value::Null => return Ok(Create::default()),
        Value::Object(object) => object,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return Err(Invalid::NotAnObject),
    };
    if text(&object, "type", 64)?.is_some_and(|kind| kind != "liveStream") {
        return Err(Invalid::Type);
    }
    Ok(Create {
        stream_id: text(&object, "streamId", 253)?.map(|id| id.trim().to_owned()),
        name: text(&object, "name", 256)?,
        description: text(&object, "description", 4096)?,
        category: text(&object, "category", 256)?,
        listener_hook_url: text(&object, "listenerHookURL", 2048)?,
        metadata: metadata(&object)?,
    })
}

fn text(object: &Map<String, Value>, field: &'static str, most: usize) -> Result<Option<String>, Invalid> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) if text.chars().count() > most => Err(Invalid::TooLong { field, most }),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(Invalid::NotAString { field })
        }
    }
}

/// Ant Media Server keeps `metaData` as text, in which clients send an object.
fn metadata(object: &Map<String, Value>) -> Result<BTreeMap<String, String>, Invalid> {
    let pairs = match object.get("metaData") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(BTreeMap::new()),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_error| Invalid::Metadata)?,
        Some(Value::Object(pairs)) => pairs.clone(),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_)) => return Err(Invalid::Metadata),
    };
    if pairs.len() > MAX_METADATA {
        return Err(Invalid::MetadataSize);
    }
    pairs.into_iter().map(pair).collect()
}

fn pair((name, value): (String, Value)) -> Result<(String, String), Invalid> {
    let value = match value {
        Value::String(text) => text,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    };
    if name.chars().count() > MAX_METADATA_KEY || value.chars().count() > MAX_METADATA_VALUE {
        return Err(Invalid::MetadataSize);
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(body: &str) -> String {
        parse(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_pages_sample_is_understood() {
        let sample = br#"{"name":"test_video", "listenerHookURL":"http://www.example.com/webhook"}"#;
        let expected = Create {
            name: Some("test_video".into()),
            listener_hook_url: Some("http://www.example.com/webhook".into()),
            ..Create::default()
        };
        assert_eq!(parse(sample), Ok(expected));
    }

    #[test]
    fn nothing_null_and_unknown_fields_ask_for_a_plain_broadcast() {
        for body in
            ["", " \r\n", "null", "{}", r#"{"name":null,"category":" "}"#, r#"{"webRTCViewerLimit":3,"x":[{}]}"#]
        {
            assert_eq!(parse(body.as_bytes()), Ok(Create::default()), "{body}");
        }
    }

    #[test]
    fn a_mistake_is_named_by_its_field_and_not_by_its_value() {
        assert_eq!(error("{\n  \"name\": s3cret}"), "the body is not JSON: line 2, column 11");
        assert_eq!(error("[1]"), "the body must be a JSON object");
        assert_eq!(error(r#"{"name":1}"#), "name must be a string");
        assert_eq!(error(r#"{"listenerHookURL":["http://s3cret"]}"#), "listenerHookURL must be a string");
        assert_eq!(
            error(&format!(r#"{{"category":"{}"}}"#, "é".repeat(257))),
            "category must be at most 256 characters"
        );
        assert_eq!(error(r#"{"type":"ipCamera"}"#), "type must be liveStream: nothing else is served here");
        assert_eq!(error(r#"{"metaData":"free text"}"#), "metaData must be a JSON object, or the text of one");
        assert!(error(&format!(r#"{{"metaData":{{"a":"{}"}}}}"#, "x".repeat(1025))).starts_with("metaData must have"));
    }

    #[test]
    fn metadata_is_an_object_or_the_text_of_one() {
        let expected: BTreeMap<String, String> =
            [("room", "7"), ("tags", "[1]")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for body in [r#"{"metaData":{"room":"7","tags":[1]}}"#, r#"{"metaData":"{\"room\":7,\"tags\":[1]}"}"#] {
            assert_eq!(parse(body.as_bytes()).unwrap().metadata, expected, "{body}");
        }
    }

    #[test]
    fn a_stream_id_is_trimmed() {
        assert_eq!(parse(br#"{"streamId":"  12345 "}"#).unwrap().stream_id.as_deref(), Some("12345"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(body: Vec<u8>) {
            let _answer = parse(&body);
        }
    }
}
