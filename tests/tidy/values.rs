//! The chart's values, its schema and its table say the same.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use tests::repository;

/// Values that are one thing to a user, though they are objects.
const WHOLE: &[&str] =
    &["operator.resources", "mediaNode.resources", "metrics.dashboard.labels", "mediaNode.rtmps.certificate.issuerRef"];

fn read(name: &str) -> String {
    fs::read_to_string(repository::root().join("charts/tallylight").join(name)).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&read("values.yaml")).unwrap()
}

#[test]
fn every_value_is_in_the_table_with_its_default() {
    let mut expected = BTreeMap::new();
    leaves(&values(), String::new(), &mut expected);
    assert!(expected.len() > 80, "{}", expected.len());
    let page = read("README.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let mut cells = row.splitn(3, " | ");
        let (name, default) = (cells.next()?.trim_end_matches('`'), cells.next()?.trim_matches('`'));
        assert!(cells.next().is_some_and(|text| text.len() > 5), "{name} is not explained");
        Some((name.to_owned(), serde_json::from_str::<Value>(default).unwrap_or_else(|_| panic!("{name}: {default}"))))
    });
    let told: BTreeMap<_, _> = rows.collect();

    let missing: Vec<_> = expected.iter().filter(|(name, value)| told.get(*name) != Some(value)).collect();
    let stale: Vec<_> = told.keys().filter(|name| !expected.contains_key(*name)).collect();

    assert!(missing.is_empty() && stale.is_empty(), "charts/tallylight/README.md lacks {missing:?}, and has {stale:?}");
}

#[test]
fn the_schema_knows_the_values_and_no_other() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut apart = Vec::new();
    compare(&values(), &schema, "", &mut apart);
    assert!(apart.is_empty(), "values.yaml and values.schema.json differ: {apart:?}");
}

fn leaves(value: &Value, path: String, found: &mut BTreeMap<String, Value>) {
    match value.as_object().filter(|object| !object.is_empty() && !WHOLE.contains(&path.as_str())) {
        Some(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, path, found);
            }
        }
        None => {
            found.insert(path, value.clone());
        }
    }
}

fn compare(value: &Value, schema: &Value, path: &str, apart: &mut Vec<String>) {
    let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) else { return };
    if schema["additionalProperties"] != false {
        apart.push(format!("{path}: additionalProperties must be false"));
    }
    // `global` is Helm's.
    apart.extend(
        known.keys().filter(|key| !object.contains_key(*key) && *key != "global").map(|key| format!("{path}.{key}")),
    );
    for (key, value) in object {
        match known.get(key) {
            Some(schema) => compare(value, schema, &format!("{path}.{key}"), apart),
            None => apart.push(format!("{path}.{key} has no schema")),
        }
    }
}
