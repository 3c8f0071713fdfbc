//! The definitions only grow: what the last release's API accepted, this one accepts, and no field is gone.

use std::process::Command;

use anyhow::Result;
use serde_json::Value;
use tests::{install, repository};

use crate::{chart::output, release::LAST};

#[test]
fn the_definitions_accept_what_those_of_the_last_release_accepted() -> Result<()> {
    let mut command = Command::new(repository::kubernetes_binary("helm")?);
    command.args(["show", "crds"]).arg(repository::root().join(LAST));
    let before = install::documents(&output(command)?)?;
    assert_eq!(before.len(), 2, "the last release has two definitions");
    let mut broken = Vec::new();
    for old in &before {
        let new =
            tallylight_crds::manifests().into_iter().map(|(_, yaml)| install::documents(&yaml).unwrap().remove(0));
        let new = new.into_iter().find(|new| new["metadata"]["name"] == old["metadata"]["name"]);
        let new = new.unwrap_or_else(|| panic!("{} is gone", old["metadata"]["name"]));
        for version in old["spec"]["versions"].as_array().unwrap() {
            let same = new["spec"]["versions"].as_array().unwrap().iter().find(|it| it["name"] == version["name"]);
            let same = same.unwrap_or_else(|| panic!("version {} is gone", version["name"]));
            let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
            compare(&schema(version), &schema(same), &old["metadata"]["name"].to_string(), &mut broken);
        }
    }
    assert!(broken.is_empty(), "not compatible with the last release: {broken:#?}");
    Ok(())
}

/// Notes what `new` refuses and `old` took. Rules in CEL are the schema suite's matter.
fn compare(old: &Value, new: &Value, path: &str, broken: &mut Vec<String>) {
    let mut note = |what: &str| broken.push(format!("{path}: {what}"));
    if old["type"] != new["type"] {
        note(&format!("was {}, is {}", old["type"], new["type"]));
    }
    let number = |schema: &Value, key: &str| schema[key].as_f64();
    for key in ["maximum", "maxLength", "maxItems", "maxProperties"] {
        if number(new, key).is_some_and(|new| number(old, key).is_none_or(|old| new < old)) {
            note(&format!("{key} is less"));
        }
    }
    for key in ["minimum", "minLength", "minItems"] {
        if number(new, key).is_some_and(|new| number(old, key).is_none_or(|old| new > old)) {
            note(&format!("{key} is more"));
        }
    }
    if new.get("pattern").is_some() && new["pattern"] != old["pattern"] {
        note("the pattern differs");
    }
    let list = |schema: &Value, key: &str| schema[key].as_array().cloned().unwrap_or_default();
    let choices = list(new, "enum");
    if list(old, "enum").iter().any(|choice| !choices.contains(choice))
        || (old.get("enum").is_none() && !choices.is_empty())
    {
        note("a choice is gone");
    }
    let required = list(old, "required");
    if list(new, "required").iter().any(|field| !required.contains(field)) {
        note("a field must be set that need not be before");
    }
    if old.get("default").is_some_and(|default| !default.is_object()) && old["default"] != new["default"] {
        note("the default differs");
    }
    for (name, field) in old["properties"].as_object().into_iter().flatten() {
        match new["properties"].get(name) {
            Some(now) => compare(field, now, &format!("{path}.{name}"), broken),
            None => broken.push(format!("{path}.{name} is gone")),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if old.get(inner).is_some_and(Value::is_object) {
            compare(&old[inner], &new[inner], &format!("{path}[]"), broken);
        }
    }
}
