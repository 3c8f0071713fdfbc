//! The metrics are those that the documents list.

use std::collections::BTreeSet;

use crate::{files, has_extension};

const LIST: &str = "docs/operating.md";

#[test]
fn the_metrics_that_are_registered_are_the_ones_that_are_listed() {
    let files = files();
    let (_, text) = files.iter().find(|(path, _)| *path == *LIST).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `tallylight_"));
    let listed: BTreeSet<&str> = rows.flat_map(|row| row.split("`tallylight_").skip(1)).map(name).collect();
    let sources = files.iter().filter(|(path, _)| {
        let ours = path.starts_with("operator") || path.starts_with("media-node");
        ours && has_extension(path, "rs") && path.components().any(|part| part.as_os_str() == "src")
    });
    let registered: BTreeSet<&str> = sources.flat_map(|(_, text)| registered(text)).collect();
    // In the list a name has its prefix, its unit and `_total`.
    let is = |listed: &str, name: &str| listed.strip_prefix("node_").unwrap_or(listed).starts_with(name);

    let unlisted: Vec<_> = registered.iter().filter(|name| !listed.iter().any(|row| is(row, name))).collect();
    let stale: Vec<_> = listed.iter().filter(|row| !registered.iter().any(|name| is(row, name))).collect();

    assert!(unlisted.is_empty() && stale.is_empty(), "{LIST}: not listed: {unlisted:?}; not registered: {stale:?}");
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let files = files();
    let text = |path: &str| files.iter().find(|(found, _)| *found == *path).map(|(_, text)| text.as_str()).unwrap();
    let rows = text(LIST).lines().filter(|line| line.starts_with("| `tallylight_"));
    let listed: BTreeSet<&str> = rows.flat_map(|row| row.split("`tallylight_").skip(1)).map(name).collect();
    for path in ["charts/tallylight/files/alerts.yaml", "charts/tallylight/files/dashboard.json"] {
        let asked: BTreeSet<&str> = text(path).split("tallylight_").skip(1).map(name).collect();
        assert!(asked.len() > 10, "{path} asks for metrics");
        let unknown: Vec<_> = asked.iter().filter(|name| !listed.contains(base(name))).collect();
        assert!(unknown.is_empty(), "{path} asks for what {LIST} does not list: {unknown:?}");
    }
}

/// The metric that a series of a histogram belongs to.
fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

#[test]
fn every_alert_is_explained_and_tried() {
    let files = files();
    let text = |path: &str| files.iter().find(|(found, _)| *found == *path).map(|(_, text)| text.as_str()).unwrap();
    let alerts = text("charts/tallylight/files/alerts.yaml");
    let alerts: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let lacks = |path: &str, form: &dyn Fn(&str) -> String| -> Vec<_> {
        alerts.iter().filter(|alert| !text(path).contains(&form(alert))).map(ToString::to_string).collect()
    };
    assert_eq!(lacks(LIST, &|alert| format!("| `{alert}` |")), Vec::<String>::new(), "not in the table of {LIST}");
    let tried = lacks("tests/alerts.yaml", &|alert| format!("alertname=\"{alert}\""));
    assert_eq!(tried, Vec::<String>::new(), "not in tests/alerts.yaml");
    let stale = text(LIST).lines().filter(|line| line.starts_with("| `Tallylight")).count();
    assert_eq!(stale, alerts.len(), "{LIST} explains alerts that are not there");
}

/// The first arguments of `registry.register("…"` and `registry.register_with_unit("…"`.
fn registered(source: &str) -> Vec<&str> {
    let calls = source.split(".register").skip(1).filter_map(|rest| {
        let arguments = rest.strip_prefix("_with_unit(").or_else(|| rest.strip_prefix('('))?;
        arguments.trim_start().strip_prefix('"')
    });
    calls.map(name).collect()
}

fn name(text: &str) -> &str {
    text.split(|character: char| !character.is_ascii_lowercase() && character != '_').next().unwrap_or_default()
}
