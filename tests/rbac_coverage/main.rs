//! Holds the chart's roles against what the suites did: reads the audit logs of every control plane that they ran, and fails when an
//! account was forbidden something that no test expects, or holds a right that no test used. `make test` runs it after the suites.
#![allow(clippy::print_stdout, reason = "what it found is its product")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{apiserver::AUDIT_FOLDER, install};

/// Tests that try what must be refused, by the beginning of their namespace.
const REFUSALS: &[&str] = &[
    "foreign-",
    "away-foreign-",
    "unbound-",
    "ephemeral-",
    "rights-",
    "elsewhere-",
    "spec-",
    "events-",
    "fence-",
    "own-",
    "rec-lost-",
    // this operator under the roles of the last release, which do not let it watch Services
    "release",
];
/// Tests that restart their API server: until it has read its roles, about a second, it forbids everything, and clients try again.
const RESTARTS: &[&str] = &["outage-", "record-outage-", "restart-"];
/// The object by which every installation waits for the policy to refuse.
const PROBE: &str = "policy-probe";
/// Rights that no suite can use, each with its reason.
const UNUSED: &[(&str, &str)] = &[(
    "tallylight-operator patch events.events.k8s.io",
    "an Event that comes again within minutes is counted in the first one; which does is chance",
)];

/// Who may do what, or did: `account verb resource.group`.
type Rights = BTreeSet<String>;

fn main() -> Result<()> {
    let folder = env::var(AUDIT_FOLDER).with_context(|| format!("{AUDIT_FOLDER} names no folder with audit logs"))?;
    let granted = granted(&install::render("release", &["secrets.readAll=true"])?);
    let (used, forbidden) = calls(Path::new(&folder))?;
    ensure!(!used.is_empty(), "no call of an account of the chart is in {folder}: did the suites run?");
    let excused: Rights = UNUSED.iter().map(|(right, _)| (*right).to_owned()).collect();
    let unused: Vec<_> = granted.difference(&used).filter(|right| !excused.contains(*right)).collect();
    println!("rbac: {} rights granted, {} of them used", granted.len(), granted.intersection(&used).count());
    ensure!(forbidden.is_empty(), "forbidden, and no test expects it: {forbidden:#?}");
    ensure!(unused.is_empty(), "granted by the chart, and used by no test: {unused:#?}");
    Ok(())
}

/// What the bindings give to the accounts of the chart.
fn granted(documents: &[Value]) -> Rights {
    let is = |document: &Value, kind: &str| document["kind"].as_str().is_some_and(|found| found.ends_with(kind));
    let mut rights = Rights::new();
    for binding in documents.iter().filter(|document| is(document, "RoleBinding")) {
        let role = &binding["roleRef"];
        let rules = documents.iter().filter(|it| it["kind"] == role["kind"] && it["metadata"]["name"] == role["name"]);
        for rule in rules.flat_map(|role| list(&role["rules"])) {
            for subject in list(&binding["subjects"]) {
                rights.extend(expanded(text(&subject["name"]), rule));
            }
        }
    }
    rights
}

fn expanded(account: &str, rule: &Value) -> Rights {
    let (groups, resources, verbs) = (list(&rule["apiGroups"]), list(&rule["resources"]), list(&rule["verbs"]));
    let pairs = groups.flat_map(|group| resources.clone().map(move |resource| (group, resource)));
    pairs
        .flat_map(|(group, resource)| {
            verbs.clone().map(move |verb| right(account, text(verb), text(resource), text(group)))
        })
        .collect()
}

fn right(account: &str, verb: &str, resource: &str, group: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    format!("{account} {verb} {resource}{dot}{group}")
}

/// What accounts did, and how often they were forbidden what.
fn calls(folder: &Path) -> Result<(Rights, BTreeMap<String, usize>)> {
    let (mut used, mut forbidden) = (Rights::new(), BTreeMap::new());
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        let log = fs::read_to_string(entry?.path())?;
        // The last line of an API server that was killed may be half written.
        for call in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let at = |pointer: &str| call.pointer(pointer).map(text).unwrap_or_default();
            let Some((_, account)) = at("/user/username").rsplit_once(':') else { continue };
            let (object, subresource) = (at("/objectRef/resource"), at("/objectRef/subresource"));
            let slash = if subresource.is_empty() { "" } else { "/" };
            let resource = format!("{object}{slash}{subresource}");
            let right = right(account, at("/verb"), &resource, at("/objectRef/apiGroup"));
            let namespace = at("/objectRef/namespace");
            let code = call.pointer("/responseStatus/code").and_then(Value::as_u64);
            if code != Some(403) {
                // An apply that makes its object needs the right to create it, and is logged as what it was asked as.
                if code == Some(201) {
                    used.insert(self::right(account, "create", &resource, at("/objectRef/apiGroup")));
                }
                used.insert(right);
            } else if at("/objectRef/name") != PROBE
                && !REFUSALS.iter().chain(RESTARTS).any(|test| namespace.starts_with(test))
            {
                *forbidden.entry(format!("{right} in {namespace}: {}", at("/responseStatus/message"))).or_default() +=
                    1;
            }
        }
    }
    Ok((used, forbidden))
}

fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
