//! Turns the keys of the `--config` file into arguments before the real ones, so that flags are defined once, in `cli`.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use clap::{ArgAction, CommandFactory, error::ErrorKind};
use serde_json::Value;

use crate::{cli::Cli, yaml};

/// Adds the keys of the file that `--config` or `TALLYLIGHT_CONFIG` names, but for those that a variable sets.
pub(crate) fn with_file(
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, clap::Error> {
    let mut command = Cli::command();
    let Some(position) = arguments.iter().skip(1).position(|argument| command.find_subcommand(argument).is_some())
    else {
        return Ok(arguments);
    };
    let (before, after) = arguments.split_at(position + 2);
    let Some(file) = named_file(after).or_else(|| variable("TALLYLIGHT_CONFIG")) else {
        return Ok(arguments);
    };
    let keys = read(Path::new(&file)).map_err(|message| command.error(ErrorKind::Io, message))?;
    let subcommand = before.last().and_then(|name| command.find_subcommand(name)).cloned().unwrap_or_default();
    let mut all = before.to_vec();
    for (key, value) in keys {
        let argument = argument(&subcommand, &key, &value, &variable)
            .map_err(|message| command.error(ErrorKind::InvalidValue, format!("{}: {message}", file.display())))?;
        all.extend(argument.map(OsString::from));
    }
    all.extend_from_slice(after);
    Ok(all)
}

fn named_file(arguments: &[OsString]) -> Option<OsString> {
    let mut named = None;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            named = arguments.next().cloned();
        } else if let Some(file) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            named = Some(file.into());
        }
    }
    named
}

fn read(file: &Path) -> Result<BTreeMap<String, Value>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("failed to read --config {}: {error}", file.display()))?;
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    yaml::document(&text).map_err(|error| format!("--config {} is no YAML mapping of flags: {error}", file.display()))
}

/// The argument that a key stands for; none when a variable takes its place or a switch is off.
fn argument(
    subcommand: &clap::Command,
    key: &str,
    value: &Value,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, String> {
    let known = || subcommand.get_arguments().filter(|a| !matches!(a.get_long(), None | Some("config" | "help")));
    let Some(flag) = known().find(|argument| argument.get_long() == Some(key)) else {
        let names: Vec<_> = known().filter_map(clap::Arg::get_long).collect();
        return Err(format!("unknown key {key}; the keys are: {}", names.join(", ")));
    };
    if flag.get_env().and_then(|name| name.to_str()).is_some_and(|name| variable(name).is_some()) {
        return Ok(None);
    }
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    match value {
        Value::Bool(on) if is_switch => Ok(on.then(|| format!("--{key}"))),
        Value::String(text) if !is_switch => Ok(Some(format!("--{key}={text}"))),
        Value::Number(number) if !is_switch => Ok(Some(format!("--{key}={number}"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            let wanted = if is_switch { "true or false" } else { "a text or a number" };
            Err(format!("{key} must be {wanted}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use tempfile::NamedTempFile;

    use super::*;
    use crate::cli::{self, Command, StandaloneArgs};

    fn file(yaml: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(yaml.as_bytes()).unwrap();
        file
    }

    fn parse(yaml: &str, flags: &[&str], variables: &[(&str, &str)]) -> Result<StandaloneArgs, String> {
        let file = file(yaml);
        let path = file.path().to_str().unwrap();
        let fixed = ["media-node", "standalone", "--config", path];
        let arguments = fixed.iter().chain(flags).map(OsString::from);
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        match cli::parse_from(arguments, variable) {
            Ok(Command::Standalone(args)) => Ok(*args),
            Ok(Command::Run(_) | Command::Check(_)) => Err("not standalone".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let args =
            parse("app: FromFile\ndata-dir: from-file\npublisher-timeout-seconds: 7\n", &["--app", "FromFlag"], &[])
                .unwrap();

        assert_eq!(args.node.app, "FromFlag");
        assert_eq!(args.node.data_dir, PathBuf::from("from-file"));
        assert_eq!(args.node.publisher_timeout_seconds, 7);
        assert_eq!(args.node.drain_seconds, 20);
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let args = parse("app: FromFile\n", &[], &[("TALLYLIGHT_APP", "FromVariable")]).unwrap();

        // The process itself has no such variable, so the key must have been left out.
        assert_eq!(args.node.app, tallylight_crds::DEFAULT_APP);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = parse("htttp-address: 127.0.0.1:1\n", &[], &[]).unwrap_err();

        assert!(error.contains("unknown key htttp-address") && error.contains("http-address"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_key() {
        assert!(parse("app: [a]\n", &[], &[]).unwrap_err().contains("app must be a text or a number"));
        assert!(parse("demo: yes please\n", &[], &[]).unwrap_err().contains("demo must be true or false"));
        assert!(parse("http-address: nowhere\n", &[], &[]).unwrap_err().contains("--http-address"));
        assert!(parse("app: a/b\n", &[], &[]).unwrap_err().contains("--app"));
    }

    #[test]
    fn switches_are_true_or_false() {
        assert!(parse("demo: true\n", &[], &[]).unwrap().demo);
        assert!(!parse("demo: false\n", &[], &[]).unwrap().demo);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let arguments = ["media-node", "standalone", "--config", "no/such/file.yaml"].map(OsString::from);
        let error = cli::parse_from(arguments, |_| None).unwrap_err().to_string();

        assert!(error.contains("no/such/file.yaml"), "{error}");
    }
}
