//! A playlist as it is sent, and its compression: made once, however many ask for it.

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use mux::playlist::{Delta, Window};

/// A playlist that is the same until the next part.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) plain: Bytes,
    pub(crate) gzip: Bytes,
    /// Names this text among all of its playlist, on whatever node.
    pub(crate) tag: String,
}

impl Text {
    pub(crate) fn new(plain: impl Into<Bytes>, tag: String) -> Arc<Self> {
        let plain = plain.into();
        let mut gzip = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
        let written = gzip.write_all(&plain).and_then(|()| gzip.finish());
        let gzip = written.expect("a Vec takes whatever is written").into();
        Arc::new(Self { plain, gzip, tag })
    }
}

/// The newest texts of a muxing.
#[derive(Debug, Default)]
pub(super) struct Texts {
    full: Option<(u64, Arc<Text>)>,
    delta: Option<(u64, Arc<Text>)>,
}

impl Texts {
    /// The playlist as it is now. `version` counts the window's changes, `first` tells its muxing from others.
    pub(super) fn of(&mut self, window: &Window, delta: Delta, first: u32, version: u64) -> Arc<Text> {
        let (slot, kind) = match delta {
            Delta::Full => (&mut self.full, "f"),
            Delta::Skip => (&mut self.delta, "d"),
        };
        match slot {
            Some((of, text)) if *of == version => Arc::clone(text),
            Some(_) | None => {
                let text = Text::new(window.media(delta, &[]), format!("{first}-{version}-{kind}"));
                *slot = Some((version, Arc::clone(&text)));
                text
            }
        }
    }
}
