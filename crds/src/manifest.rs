//! The CRDs' YAML, made from the Rust types, with what the derive cannot say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Broadcast, BroadcastStatus, MediaPool, Recording, RecordingStatus};

/// The generated files, `(name, text)`, in the order of their names.
///
/// # Panics
/// Never: a CRD made from these types is plain data.
#[must_use]
pub fn manifests() -> Vec<(&'static str, String)> {
    let yaml = |value: &Value| {
        let text = serde_saphyr::to_string(value).expect("a CRD is plain data");
        format!("# Generated from the crate tallylight-crds by `make crds`; never edited.\n{text}")
    };
    vec![
        ("broadcasts.yaml", yaml(&crd(&Broadcast::crd(), Some(default_of::<BroadcastStatus>())))),
        ("mediapools.yaml", yaml(&crd(&MediaPool::crd(), None))),
        ("recordings.yaml", yaml(&crd(&Recording::crd(), Some(default_of::<RecordingStatus>())))),
    ]
}

fn crd(crd: &CustomResourceDefinition, status_default: Option<Value>) -> Value {
    let mut value = serde_json::to_value(crd).expect("a CRD is plain data");
    let schema = value
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("the derive makes one version with a schema");
    tidy(schema);
    if let Some(default) = status_default {
        // The default makes the first JSON Patch find its parents, and transition rules run on the very first write.
        let status = schema.pointer_mut("/properties/status").and_then(Value::as_object_mut);
        status.expect("the kind has a status").insert("default".into(), default);
    }
    value
}

/// The status that every read has before the first write.
fn default_of<S: Default + Serialize>() -> Value {
    serde_json::to_value(S::default()).expect("a status is plain data")
}

/// Takes out what must not be there: `nullable` (an explicit null would pass by the default), `title`, and the
/// formats of unsigned integers, which are not OpenAPI's.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            tidy_object(object);
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tidy_object(object: &mut Map<String, Value>) {
    if object.get("nullable").is_some_and(Value::is_boolean) {
        object.remove("nullable");
    }
    if object.get("title").is_some_and(Value::is_string) && object.contains_key("type") {
        object.remove("title");
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
}

/// An RFC 3339 time.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 40})
}

/// Up to 32 pairs of a key of 64 bytes and a value of 1,024.
pub(crate) fn string_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": json!({"type": "string", "maxLength": 1024}),
    })
}
