//! The reference of the API for people, made from the same schema that the API server holds objects to.

use serde_json::Value;

use crate::manifest::manifests;

/// Makes docs/api.md: one table a part of each kind.
///
/// # Panics
/// Never: the definitions are YAML that was made here.
#[must_use]
pub fn reference() -> String {
    let mut text = "\
# API reference

Made from the definitions by `make crds`; never edited. `kubectl explain broadcast.spec` says the same in a cluster. The group is
`tallylight.dev/v1alpha1`; all kinds live in a namespace. It only grows: what a version accepts, later ones do.

A field with a star must be set.
"
    .to_owned();
    for (_, yaml) in manifests() {
        let definition: Value = serde_saphyr::from_str(&yaml).expect("a definition is YAML");
        let names = &definition["spec"]["names"];
        let kind = names["kind"].as_str().unwrap_or_default();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let short = names["shortNames"][0].as_str().unwrap_or_default();
        text += &format!("\n## {kind}\n\n{}\nShort name: `{short}`.\n", described(schema));
        for (part, what) in [("spec", "What you write"), ("status", "What Tallylight writes")] {
            text +=
                &format!("\n### {kind}.{part}\n\n{what}.\n\n| field | type | default | |\n| --- | --- | --- | --- |\n");
            rows(&schema["properties"][part], "", &mut text);
            text += &laws(&schema["properties"][part]);
        }
    }
    text
}

/// One row a field, those of an object below it.
fn rows(schema: &Value, path: &str, text: &mut String) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let list = field["type"] == "array";
        let at = format!("{path}{name}{}", if list { "[]" } else { "" });
        let star = if required.iter().any(|required| required == name) { " \\*" } else { "" };
        let default = field.get("default").filter(|default| !default.is_object()).map(|it| format!("`{it}`"));
        let row = [format!("`{at}`{star}"), kind(field), default.unwrap_or_default(), cell(&described(field))];
        *text += &format!("| {} |\n", row.join(" | "));
        rows(if list { &field["items"] } else { field }, &format!("{at}."), text);
    }
}

/// The type with its bounds.
fn kind(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        return values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let name = field["format"].as_str().filter(|format| *format == "date-time").unwrap_or_default();
    let name = if name.is_empty() { field["type"].as_str().unwrap_or("any") } else { "time" };
    let bound = |key: &str| field[key].as_f64().map(|number| number.to_string());
    let (low, high) = match name {
        "integer" | "number" => (bound("minimum"), bound("maximum")),
        "string" => (bound("minLength"), bound("maxLength")),
        "array" => (bound("minItems"), bound("maxItems")),
        _ => (None, bound("maxProperties")),
    };
    let unit = match name {
        "string" => " characters",
        "array" => " items",
        "object" => " keys",
        _ => "",
    };
    let range = match (low, high) {
        (Some(low), Some(high)) => format!(", {low} to {high}{unit}"),
        (None, Some(high)) => format!(", at most {high}{unit}"),
        (Some(low), None) => format!(", at least {low}{unit}"),
        (None, None) => String::new(),
    };
    format!("{name}{range}")
}

/// What CEL rules refuse, in their own words.
fn laws(schema: &Value) -> String {
    let mut messages = Vec::new();
    collect(schema, &mut messages);
    messages.sort();
    messages.dedup();
    if messages.is_empty() {
        return String::new();
    }
    let items: String = messages.iter().map(|message| format!("* {message}\n")).collect();
    format!("\nThe API server refuses what breaks one of these:\n\n{items}")
}

fn collect(schema: &Value, messages: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            let rules = object.get("x-kubernetes-validations").and_then(Value::as_array);
            messages.extend(rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str()).map(str::to_owned));
            object.values().for_each(|value| collect(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn described(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().to_owned()
}

/// Text that does not end a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_their_place_bounds_and_default() {
        let text = reference();

        let has = |line: &str| assert!(text.lines().any(|found| found.starts_with(line)), "{line}");
        has("| `streamID` | string, 1 to ");
        has("| `nodes.template.image` | string, 1 to 512 characters |");
        has("| `admission` | `RegisteredOnly`, `Open` | `\"RegisteredOnly\"` |");
        has("| `conditions[].status`");
        has("* maxNodes must not be less than minNodes");
    }
}
