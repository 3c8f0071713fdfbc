//! Reads one file of manifests: every document of it, or an error that names the document and the field.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tallylight_crds::{API_VERSION, Broadcast, HookUrlSource, MediaPool, StreamId, check_app, hook_url, object_name};

use crate::{standalone::NAMESPACE, yaml};

/// What a document may be.
#[derive(Clone)]
pub(super) enum Object {
    Broadcast(Box<Broadcast>),
    MediaPool(Box<MediaPool>),
    Secret(String, BTreeMap<String, String>),
}

/// Reads a file's text.
pub(super) fn objects(text: &str) -> Result<Vec<Object>, String> {
    let documents: Vec<Value> = yaml::documents(text)?;
    let written = documents.into_iter().enumerate().filter(|(_, document)| !document.is_null());
    written
        .map(|(index, document)| object(&document).map_err(|error| format!("document {}: {error}", index + 1)))
        .collect()
}

fn object(document: &Value) -> Result<Object, String> {
    let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    match (api_version.as_str(), kind.as_str()) {
        (API_VERSION, "Broadcast") => {
            let broadcast: Broadcast = typed(document)?;
            check_broadcast(&broadcast)?;
            Ok(Object::Broadcast(Box::new(broadcast)))
        }
        (API_VERSION, "MediaPool") => {
            let pool: MediaPool = typed(document)?;
            check_app(&pool.spec.app).map_err(|error| format!("spec.app: {error}"))?;
            check_url("spec.listenerHookURL", pool.spec.listener_hook_url.as_deref())?;
            Ok(Object::MediaPool(Box::new(pool)))
        }
        ("v1", "Secret") => secret(document),
        _ => Err(format!(
            "apiVersion {api_version} and kind {kind}: must be {API_VERSION} and Broadcast or MediaPool, or v1 and Secret"
        )),
    }
}

fn typed<T>(document: &Value) -> Result<T, String>
where
    T: DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    let object: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    let name = object.name_any();
    check_name(&name)?;
    if object.namespace().is_some_and(|namespace| namespace != NAMESPACE) {
        return Err(format!("metadata.namespace: a standalone server has the one namespace {NAMESPACE}; leave it out"));
    }
    let known = serde_json::to_value(&object).map_err(|error| error.to_string())?;
    for part in ["metadata", "spec"] {
        if let Some(unknown) = unknown_field(&document[part], &known[part], part) {
            return Err(format!("{unknown}: there is no such field"));
        }
    }
    Ok(object)
}

fn check_name(name: &str) -> Result<(), String> {
    match StreamId::parse(name) {
        Ok(id) if object_name(&id) == name => Ok(()),
        Ok(_) | Err(_) => Err(format!(
            "metadata.name {name:?}: must be a DNS label (a-z, 0-9 and '-', at most 63 characters); give another id in spec.streamID"
        )),
    }
}

fn check_broadcast(broadcast: &Broadcast) -> Result<(), String> {
    check_url("spec.listenerHookURL", broadcast.spec.listener_hook_url.as_deref())?;
    let Some(id) = &broadcast.spec.stream_id else { return Ok(()) };
    let id = StreamId::parse(id).map_err(|error| format!("spec.streamID: {error}"))?;
    let wanted = object_name(&id);
    if broadcast.name_any() == wanted {
        return Ok(());
    }
    Err(format!("metadata.name: the Broadcast of the stream id {id} must be named {wanted}"))
}

fn check_url(field: &str, url: Option<&str>) -> Result<(), String> {
    let checked = url.map(|url| hook_url(url, HookUrlSource::Spec)).transpose();
    checked.map(|_| ()).map_err(|error| format!("{field}: the URL {error}"))
}

/// The first field that was written and is not known, with its path.
fn unknown_field(written: &Value, known: &Value, path: &str) -> Option<String> {
    let (Value::Object(written), Value::Object(known)) = (written, known) else { return None };
    written.iter().filter(|(_, value)| !is_empty(value)).find_map(|(field, value)| {
        let path = format!("{path}.{field}");
        match known.get(field) {
            Some(known) => unknown_field(value, known, &path),
            None => Some(path),
        }
    })
}

/// What is left out when it is written again.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn secret(document: &Value) -> Result<Object, String> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    let mut data = BTreeMap::new();
    for (key, value) in fields(document, "data")? {
        // the value itself is never shown
        let bytes = BASE64_STANDARD.decode(value.trim()).map_err(|_invalid| format!("data.{key} is not base64"))?;
        let text = String::from_utf8(bytes).map_err(|_invalid| format!("data.{key} is not UTF-8"))?;
        data.insert(key, text);
    }
    data.extend(fields(document, "stringData")?);
    Ok(Object::Secret(name.to_owned(), data))
}

fn fields(document: &Value, field: &str) -> Result<Vec<(String, String)>, String> {
    let none = Map::new();
    let fields = match document.get(field) {
        None | Some(Value::Null) => &none,
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err(format!("{field} must be a mapping")),
    };
    fields
        .iter()
        .map(|(key, value)| {
            let text = value.as_str().ok_or_else(|| format!("{field}.{key} must be a text; put it in quotes"))?;
            Ok((key.clone(), text.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        objects(text).err().expect("the file is refused")
    }

    #[test]
    fn a_file_holds_any_number_of_objects() {
        let text = "
apiVersion: tallylight.dev/v1alpha1
kind: Broadcast
metadata: {name: studio}
spec: {pool: default, publish: {streamKeySecretRef: {name: keys, key: studio}}}
---
apiVersion: tallylight.dev/v1alpha1
kind: MediaPool
metadata: {name: events}
spec: {app: Events}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {studio: aHVudGVyMg==}
stringData: {other: plain}
---
";
        let objects = objects(text).unwrap();

        let [Object::Broadcast(broadcast), Object::MediaPool(pool), Object::Secret(name, data)] = &objects[..] else {
            panic!("three objects")
        };
        assert_eq!((broadcast.name_any(), pool.spec.app.as_str(), name.as_str()), ("studio".into(), "Events", "keys"));
        assert_eq!(data.get("studio").map(String::as_str), Some("hunter2"));
        assert_eq!(data.get("other").map(String::as_str), Some("plain"));
    }

    #[test]
    fn an_error_names_the_document_and_the_field() {
        let broadcast = "apiVersion: tallylight.dev/v1alpha1\nkind: Broadcast\nmetadata: {name: a}\nspec:";
        let misspelt = error(&format!("{broadcast} {{pool: p}}\n---\n{broadcast} {{pool: p, listenerHookUrl: x}}\n"));
        assert!(misspelt.starts_with("document 2: spec.listenerHookUrl"), "{misspelt}");
        assert!(error(&format!("{broadcast} {{}}\n")).contains("pool"));
        assert!(
            error(&format!("{broadcast} {{pool: p, listenerHookURL: 'ftp://x/'}}\n")).contains("spec.listenerHookURL")
        );
        assert!(error(&format!("{broadcast} {{pool: p, streamID: Studio 1}}\n")).contains("spec.streamID"));
        assert!(error(&format!("{broadcast} {{pool: p, streamID: Studio}}\n")).contains("must be named x-studio-"));
        let pool = "apiVersion: tallylight.dev/v1alpha1\nkind: MediaPool\nmetadata: {name: a}\nspec: {app: a/b}\n";
        assert!(error(pool).contains("spec.app"), "{}", error(pool));
        assert!(error("apiVersion: v1\nkind: Pod\n").contains("kind Pod"));
        assert!(
            error("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: 5}\n")
                .contains("stringData.key")
        );
        assert!(error("{").contains("line"), "{}", error("{"));
    }
}
