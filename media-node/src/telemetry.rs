//! The log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::cli::{LogFormat, NodeArgs};

/// Sets the log up for this process.
pub fn init(args: &NodeArgs) {
    let filter = EnvFilter::builder().parse(&args.log_filter);
    let broken = filter.as_ref().err().map(ToString::to_string);
    let registry = tracing_subscriber::registry().with(filter.unwrap_or_else(|_| EnvFilter::new("info")));
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => registry.with(layer.with_target(false)).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    if let Some(error) = broken {
        tracing::warn!(error, "--log-filter cannot be read; info is used");
    }
}
