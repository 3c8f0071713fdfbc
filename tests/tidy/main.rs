//! What holds for the repository as a whole. Each test says how to repair what it finds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends here, with the reason")]

mod dependencies;
mod documents;
mod flags;
mod generated;
mod metrics;
mod sources;
mod values;

use std::{fs, path::PathBuf, process::Command};

/// Returns the tracked files, and those that would be if they were added, relative to the root, with their text; binary files are left out.
fn files() -> Vec<(PathBuf, String)> {
    let root = tests::repository::root();
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git lists the files");
    assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let with_text = |name: &str| Some((PathBuf::from(name), fs::read_to_string(root.join(name)).ok()?));
    names.split_terminator('\0').filter_map(with_text).collect()
}

fn has_extension(path: &std::path::Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
