//! Logs: to standard error, filtered by `RUST_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::LogFormat;

/// Without `RUST_LOG`: our own lines, which say what failed and for whom. The client has a line of its own for each request
/// that fails, and the runtime a span around each reconcile.
const FILTER: &str = "info,kube_client=off,kube_runtime=warn";

/// Installs the log writer; the first call in a process wins.
pub(crate) fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let colours = std::io::stderr().is_terminal();
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(colours);
    let installed = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    debug_assert!(installed.is_ok(), "logs are installed once");
}
