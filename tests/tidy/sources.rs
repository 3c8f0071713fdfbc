//! Form of the sources.

use std::path::Path;

use crate::{files, has_extension};

/// A longer file decides more than one thing.
const MAX_LINES: usize = 700;

#[test]
fn no_file_is_too_long_to_decide_one_thing() {
    let long: Vec<_> = files()
        .into_iter()
        .filter(|(path, text)| has_extension(path, "rs") && text.lines().count() > MAX_LINES)
        .map(|(path, text)| format!("{} ({} lines)", path.display(), text.lines().count()))
        .collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines; split by what each part decides: {long:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    // Put together here, so that this file is none of its own findings.
    let marks = [
        ["to", "do!("].concat(),
        ["unimplem", "ented!("].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["#[ign", "ore"].concat(),
    ];
    refuse("finish it, or leave it out", &["rs", "sh", "yaml", "toml", "md"], |line| {
        marks.iter().any(|mark| line.contains(mark))
    });
}

#[test]
fn nothing_depends_on_one_machine() {
    let roots = ["/ro", "/ho", "/wo", "/tm"]
        .iter()
        .zip(["ot/", "me/", "rk/", "p/"])
        .map(|(a, b)| [*a, b].concat())
        .collect::<Vec<_>>();
    refuse(
        "absolute paths of a machine; take the path from the environment",
        &["rs", "sh", "yaml", "toml", "md"],
        |line| roots.iter().any(|root| line.match_indices(root.as_str()).any(|(at, _)| begins_a_path(line, at))),
    );
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let mark = ["time::sl", "eep("].concat();
    let waits = Path::new("tests/harness/wait.rs");
    let found = findings(&["rs"], |line| line.contains(&mark) || line.contains(&["thread::sl", "eep("].concat()));
    let found: Vec<_> =
        found.into_iter().filter(|(path, _)| path != waits && (path.starts_with("tests") || in_tests(path))).collect();
    assert!(found.is_empty(), "wait for the condition with tests::wait::until: {found:#?}");
}

#[test]
fn modules_are_named_for_what_they_decide() {
    let vague = ["mod", "utils", "util", "helpers", "common", "types", "misc"];
    let is_vague = |path: &Path| path.file_stem().is_some_and(|stem| vague.iter().any(|name| stem == *name));
    let found: Vec<_> =
        files().into_iter().map(|(path, _)| path).filter(|path| has_extension(path, "rs") && is_vague(path)).collect();
    assert!(found.is_empty(), "name the file for what it decides; x.rs with x/, no mod.rs: {found:#?}");
}

#[test]
fn every_test_is_named_for_a_behaviour() {
    let name = ["fn te", "st_"].concat();
    refuse("say what holds: a_second_publisher_is_refused", &["rs"], |line| {
        line.trim_start().trim_start_matches("async ").starts_with(&name)
    });
}

fn refuse(repair: &str, extensions: &[&str], is_bad: impl Fn(&str) -> bool) {
    let found = findings(extensions, is_bad);
    assert!(found.is_empty(), "{repair}: {found:#?}");
}

fn findings(extensions: &[&str], is_bad: impl Fn(&str) -> bool) -> Vec<(std::path::PathBuf, String)> {
    let wanted = |path: &Path| extensions.iter().any(|extension| has_extension(path, extension));
    let mut found = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| wanted(path)) {
        let bad = text.lines().enumerate().filter(|(_, line)| is_bad(line));
        found.extend(bad.map(|(number, line)| (path.clone(), format!("{}: {}", number + 1, line.trim()))));
    }
    found
}

fn begins_a_path(line: &str, at: usize) -> bool {
    line.get(..at)
        .and_then(|before| before.chars().next_back())
        .is_none_or(|before| !before.is_alphanumeric() && !"._-/}*".contains(before))
}

/// Reports whether a file of a crate holds tests only.
fn in_tests(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.file_stem().is_some_and(|stem| stem == "tests")
}
