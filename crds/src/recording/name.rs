//! Names of Recordings and of their files: pure functions, so that to make one twice is to make one.

use jiff::{Timestamp, tz::TimeZone};
use sha2::{Digest, Sha256};

use super::RecordingFormat;

/// Bytes of the Broadcast's name that are kept: with `-` and the hash it stays a DNS label.
const MAX_READABLE: usize = 40;
/// Characters of the hash: 50 bits, of which nobody chooses one.
const HASH: usize = 10;
/// Longest file name without its extension: the schema takes 200 bytes of `spec.fileName`.
const MAX_STEM: usize = 190;
/// Base 32 of RFC 4648 in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Names the Recording of a part that the node with `epoch` of a session begins.
#[must_use]
pub fn recording_name(broadcast: &str, uid: &str, ordinal: i64, epoch: i64, part: i64) -> String {
    let readable: String = broadcast.chars().take(MAX_READABLE).collect();
    let readable = readable.trim_matches('-');
    let hash = base32(&format!("{uid}/{ordinal}/{epoch}/{part}"), HASH);
    if readable.is_empty() { hash } else { format!("{readable}-{hash}") }
}

/// What a file's name may say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileName<'a> {
    pub stream_id: &'a str,
    pub session: i64,
    pub part: i64,
    /// Of the file. Its date and time are UTC.
    pub start: Timestamp,
    pub format: RecordingFormat,
}

impl FileName<'_> {
    /// Fills a template: `{streamID}`, `{session}`, `{part}`, `{date}` as 20260314 and `{time}` as 150926; then the extension.
    /// What is too long is cut, and told apart by a hash.
    #[must_use]
    pub fn fill(&self, template: &str) -> String {
        let start = self.start.to_zoned(TimeZone::UTC);
        let mut stem = template
            .replace("{session}", &self.session.to_string())
            .replace("{part}", &self.part.to_string())
            .replace("{date}", &start.strftime("%Y%m%d").to_string())
            .replace("{time}", &start.strftime("%H%M%S").to_string())
            .replace("{streamID}", self.stream_id);
        if stem.starts_with('.') {
            stem.insert(0, '_');
        }
        if stem.len() > MAX_STEM {
            let hash = base32(&stem, HASH);
            let readable: String = stem.chars().take(MAX_STEM - HASH - 1).collect();
            stem = format!("{readable}-{hash}");
        }
        format!("{stem}.{}", self.format.extension())
    }
}

fn base32(text: &str, length: usize) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..length.min(12))
        .map(|at| char::from(ALPHABET[usize::try_from(bits >> (59 - 5 * at) & 31).unwrap_or(0)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_has_the_same_name_however_often_it_is_derived() {
        // Written out, because a change of the function would record one file twice.
        assert_eq!(recording_name("studio", "u-1", 1, 1, 1), "studio-o7p5mf5p5r");
        let others = [
            recording_name("studio", "u-2", 1, 1, 1),
            recording_name("studio", "u-1", 2, 1, 1),
            recording_name("studio", "u-1", 1, 2, 1),
            recording_name("studio", "u-1", 1, 1, 2),
        ];
        let mut unique: Vec<_> = others.iter().collect();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), others.len());
        let long = recording_name(&"a-".repeat(31), "u", 1, 1, 1);
        assert!(long.len() <= 63 && long.starts_with("a-a-") && !long.contains("--"), "{long}");
    }

    fn name(stream_id: &str, template: &str) -> String {
        let start = "2026-03-14T15:09:26.5Z".parse().unwrap();
        FileName { stream_id, session: 3, part: 2, start, format: RecordingFormat::Mp4 }.fill(template)
    }

    #[test]
    fn a_template_is_filled_and_fits_a_file_system() {
        assert_eq!(name("Studio_1", "{streamID}-{date}-{time}-{part}"), "Studio_1-20260314-150926-2.mp4");
        assert_eq!(name("x", "s{session}.{streamID}"), "s3.x.mp4");
        assert_eq!(name("..", "{streamID}"), "_...mp4", "no hidden file");
        let (one, other) = ("a".repeat(253), format!("{}b", "a".repeat(252)));
        let (one, other) = (name(&one, "{streamID}"), name(&other, "{streamID}"));
        assert!(one.len() <= 200 && one != other, "{one}");
    }
}
