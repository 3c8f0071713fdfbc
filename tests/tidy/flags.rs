//! What the binaries take, the documents tell, and the chart gives only that.

use std::{collections::BTreeSet, process::Command};

use crate::{files, has_extension};

#[test]
fn every_flag_of_the_operator_is_in_its_table() {
    documented("docs/operating.md", &[("tallylight-operator", "run")]);
}

#[test]
fn every_flag_of_the_media_node_is_in_its_table() {
    documented("docs/standalone.md", &[("tallylight-media-node", "standalone"), ("tallylight-media-node", "run")]);
}

#[test]
fn the_chart_gives_only_what_the_binaries_take() {
    for (template, binary, subcommand) in [
        ("operator.yaml", "tallylight-operator", "run"),
        ("media-node.yaml", "tallylight-media-node", "run"),
        ("check.yaml", "tallylight-media-node", "check"),
    ] {
        let path = format!("charts/tallylight/templates/{template}");
        let (_, text) = files().into_iter().find(|(found, _)| *found == *path).unwrap();
        let help = help(binary, subcommand);
        let unknown: Vec<_> = words(&text, "- --")
            .into_iter()
            .map(|flag| format!("--{flag}"))
            .chain(words(&text, "TALLYLIGHT_").into_iter().map(|name| format!("TALLYLIGHT_{name}=")))
            .filter(|given| !help.contains(given.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{path} gives what `{binary} {subcommand} --help` does not list: {unknown:?}");
    }
}

/// Asserts that the document's tables of flags name exactly those that the binaries' subcommands take.
fn documented(document: &str, commands: &[(&str, &str)]) {
    let (_, text) = files().into_iter().find(|(path, _)| *path == *document && has_extension(path, "md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `--")).filter_map(|line| line.split('|').nth(1));
    let told: BTreeSet<String> = rows.flat_map(|cell| words(cell, "--")).collect();
    let mut taken = BTreeSet::new();
    for (binary, subcommand) in commands {
        let help = help(binary, subcommand);
        taken.extend(help.lines().filter_map(|line| {
            let flag = line.trim_start().strip_prefix("--").or_else(|| line.trim_start().strip_prefix("-h, --"))?;
            words(&format!("--{flag}"), "--").into_iter().next()
        }));
    }
    taken.remove("help");
    taken.remove("config"); // told in the text above the table
    let missing: Vec<_> = taken.difference(&told).collect();
    let stale: Vec<_> = told.difference(&taken).collect();
    assert!(missing.is_empty() && stale.is_empty(), "{document}: not in the table: {missing:?}; not a flag: {stale:?}");
}

fn help(binary: &str, subcommand: &str) -> String {
    let path = tests::repository::binary(binary).unwrap();
    let output = Command::new(path).args([subcommand, "--help"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The words of letters, digits, `-` and `_` that follow the mark.
fn words(text: &str, mark: &str) -> Vec<String> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
    let after = text.split(mark).skip(1);
    let word = |rest: &str| rest.split(|character| !is_word(character)).next().unwrap_or_default().to_owned();
    after.map(word).filter(|word| !word.is_empty()).collect()
}
