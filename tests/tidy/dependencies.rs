//! Arrows point inward: what decides knows no socket, no clock and no cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::{files, has_extension};

/// What only drivers may know.
const OUTSIDE: [&str; 5] = ["tokio", "kube", "hyper", "reqwest", "axum"];

#[test]
fn what_decides_about_media_does_no_io() {
    let graph = Graph::read();
    for crate_name in ["media-core", "media-rtp", "media-webrtc", "mux", "rtmp"] {
        let reached: Vec<_> = OUTSIDE.into_iter().filter(|outside| graph.reaches(crate_name, outside)).collect();
        assert!(
            reached.is_empty(),
            "{crate_name} must stay sans-IO, but it reaches {reached:?}; see: cargo tree -p {crate_name}"
        );
    }
}

#[test]
fn in_webrtc_only_the_workers_do_io() {
    let words = ["quinn_udp::", "rustix::", "socket2::", "std::thread", "UdpSocket", "Instant::now"];
    mentions_only("media-node/webrtc/src", &words, &["pool.rs", "worker.rs"]);
}

#[test]
fn the_operator_has_no_media_code() {
    let graph = Graph::read();
    for media in ["media-core", "media-rtp", "media-webrtc", "mux", "rtmp", "tallylight-media-node"] {
        assert!(!graph.reaches("tallylight-operator", media), "the operator must not depend on {media}");
    }
}

#[test]
fn in_the_ledger_only_the_stores_know_their_storage() {
    mentions_only(
        "operator/ledger/src",
        &["tokio::", "kube::", "rusqlite::"],
        &["kube.rs", "sqlite.rs", "conformance.rs", "lib.rs"],
    );
}

#[test]
fn in_webhook_only_the_drivers_do_io() {
    mentions_only("operator/webhook/src", &["tokio::", "tokio_util::"], &["http.rs", "deliver.rs", "lib.rs"]);
}

#[test]
fn a_users_url_is_opened_in_one_file() {
    let reqwest = ["req", "west::"].concat();
    mentions_only("operator", &[&reqwest], &["webhook/src/http.rs"]);
    mentions_only("media-node", &[&reqwest], &[]);
    mentions_only("crds", &[&reqwest], &[]);
}

/// Asserts that under `folder` only the `allowed` files, or files in a folder of that name, contain one of the `words`.
fn mentions_only(folder: &str, words: &[&str], allowed: &[&str]) {
    let is_allowed = |path: &Path| {
        let inner = path.strip_prefix(folder).unwrap_or(path);
        allowed.iter().any(|file| inner == Path::new(file) || inner.starts_with(file.trim_end_matches(".rs")))
    };
    let found: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| path.starts_with(folder) && has_extension(path, "rs") && !is_allowed(path))
        .flat_map(|(path, text)| {
            let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
            let bad = code.filter(|line| {
                !line.trim_start().starts_with("//") && words.iter().any(|word| contains_word(line, word))
            });
            bad.map(|line| format!("{}: {}", path.display(), line.trim())).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.is_empty(), "only {allowed:?} of {folder} may know {words:?}: {found:#?}");
}

fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    })
}

/// The workspace's dependency graph with every feature on; development dependencies are left out.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--all-features"])
            .current_dir(tests::repository::root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let names =
            list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let is_linked = |dependency: &Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        let edges = list(&metadata["resolve"]["nodes"])
            .iter()
            .map(|node| {
                let linked = list(&node["deps"]).into_iter().filter(is_linked);
                (text(&node["id"]), linked.map(|dependency| text(&dependency["pkg"])).collect())
            })
            .collect();
        Self { names, edges }
    }

    fn reaches(&self, from: &str, to: &str) -> bool {
        let ids = |name: &str| {
            self.names.iter().filter(|(_, found)| *found == name).map(|(id, _)| id.clone()).collect::<Vec<_>>()
        };
        let (mut open, goals) = (ids(from), ids(to));
        assert!(!open.is_empty(), "the workspace has no crate {from}");
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if goals.contains(&id) {
                return true;
            }
            if seen.insert(id.clone()) {
                open.extend(self.edges.get(&id).into_iter().flatten().cloned());
            }
        }
        false
    }
}
