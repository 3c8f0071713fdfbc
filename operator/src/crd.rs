//! `operator crd`: the custom resource definitions as YAML, or what they say as a page for people.

use std::{fs, io, io::Write as _, path::Path};

use crate::cli::CrdFormat;

/// Writes one file a kind, or the page, into `folder`, or all to standard output.
pub(crate) fn write(format: CrdFormat, folder: Option<&Path>) -> io::Result<()> {
    let files = match format {
        CrdFormat::Yaml => tallylight_crds::manifests(),
        CrdFormat::Markdown => vec![("api.md", tallylight_crds::reference())],
    };
    for (name, text) in files {
        match (folder, format) {
            (Some(folder), _) => fs::write(folder.join(name), text)?,
            (None, CrdFormat::Yaml) => write!(io::stdout(), "---\n{text}")?,
            (None, CrdFormat::Markdown) => write!(io::stdout(), "{text}")?,
        }
    }
    Ok(())
}
