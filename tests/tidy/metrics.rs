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
