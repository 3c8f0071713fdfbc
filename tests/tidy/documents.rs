//! What the documents point at is there.

use std::path::Path;

use crate::{files, has_extension};

#[test]
fn links_between_documents_resolve() {
    let root = tests::repository::root();
    let mut broken = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| has_extension(path, "md")) {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for target in targets(&text) {
            if !root.join(folder).join(&target).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links to files that are not there: {broken:#?}");
}

/// The relative files that Markdown links and images point to.
fn targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for part in text.split("](").skip(1) {
        let Some(target) = part.split([')', ' ', '#']).next() else { continue };
        if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
            targets.push(target.to_owned());
        }
    }
    targets
}

#[test]
fn links_are_found_in_markdown() {
    let text = "[a](docs/a.md#part) ![b](b.svg \"B\") [c](https://example.com) [d](#here)";
    assert_eq!(targets(text), ["docs/a.md", "b.svg"]);
}
