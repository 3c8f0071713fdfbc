//! `operator crd`: the custom resource definitions as YAML.

use std::{fs, io, io::Write as _, path::Path};

/// Writes one file a kind into `folder`, or all to standard output.
pub(crate) fn write(folder: Option<&Path>) -> io::Result<()> {
    for (name, yaml) in tallylight_crds::manifests() {
        match folder {
            Some(folder) => fs::write(folder.join(name), yaml)?,
            None => write!(io::stdout(), "---\n{yaml}")?,
        }
    }
    Ok(())
}
