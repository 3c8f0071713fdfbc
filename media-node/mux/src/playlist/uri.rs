//! Names of the playlist's files, relative to it, and what a name asks for.

use super::Position;

/// What a file of a broadcast is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `init-0.mp4`: the initialization segment with this number.
    Init(u32),
    /// `segment-7.m4s`.
    Segment(u64),
    /// `part-7.2.m4s`.
    Part(Position),
}

impl Resource {
    /// Reads a name; `None` for one that is no name of ours. A file has one name: caches must not take `segment-07.m4s` for another.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::read(name).filter(|resource| resource.to_string() == name)
    }

    fn read(name: &str) -> Option<Self> {
        if let Some(number) = name.strip_prefix("init-").and_then(|name| name.strip_suffix(".mp4")) {
            return number.parse().ok().map(Self::Init);
        }
        let name = name.strip_suffix(".m4s")?;
        if let Some(number) = name.strip_prefix("segment-") {
            return number.parse().ok().map(Self::Segment);
        }
        let (segment, part) = name.strip_prefix("part-")?.split_once('.')?;
        Some(Self::Part(Position { segment: segment.parse().ok()?, part: part.parse().ok()? }))
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Init(number) => write!(f, "init-{number}.mp4"),
            Self::Segment(number) => write!(f, "segment-{number}.m4s"),
            Self::Part(Position { segment, part }) => write!(f, "part-{segment}.{part}.m4s"),
        }
    }
}
