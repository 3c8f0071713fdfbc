//! What is generated is fresh.

use std::{collections::BTreeMap, fs, path::Path};

use tests::repository;

const REPAIR: &str = "run: make crds";

#[test]
fn the_crds_are_those_of_the_rust_types() {
    let expected: BTreeMap<String, String> =
        tallylight_crds::manifests().into_iter().map(|(name, yaml)| (name.to_owned(), yaml)).collect();
    assert!(
        expected == yaml_files("crds"),
        "crds/*.yaml differ from what tallylight_crds::manifests() makes; {REPAIR}"
    );
}

#[test]
fn the_chart_installs_those_crds() {
    assert!(
        yaml_files("charts/tallylight/files/crds") == yaml_files("crds"),
        "the chart's CRDs are not those of crds/; {REPAIR}"
    );
}

#[test]
fn the_api_reference_is_that_of_the_rust_types() {
    let page = fs::read_to_string(repository::root().join("docs/api.md")).unwrap_or_default();
    assert!(page == tallylight_crds::reference(), "docs/api.md differs from what the definitions say; {REPAIR}");
}

fn yaml_files(folder: &str) -> BTreeMap<String, String> {
    let entries =
        fs::read_dir(repository::root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}; {REPAIR}"));
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| super::has_extension(path, "yaml"));
    paths.map(|path| (file_name(&path), fs::read_to_string(&path).unwrap())).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
