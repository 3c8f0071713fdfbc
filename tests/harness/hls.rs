//! Reads LL-HLS media playlists and holds them to the rules of RFC 8216bis (draft-pantos-hls-rfc8216bis) §4.4, B and C,
//! each alone and each after the one before.

pub mod player;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playlist {
    pub target_duration: u64,
    pub part_target: f64,
    pub hold_back: f64,
    pub part_hold_back: f64,
    pub can_skip_until: f64,
    pub can_block_reload: bool,
    pub independent_segments: bool,
    pub media_sequence: u64,
    pub discontinuity_sequence: u64,
    /// Set in a delta update.
    pub skipped: usize,
    pub segments: Vec<Segment>,
    /// Parts after the last complete segment.
    pub open: Vec<Part>,
    pub open_breaks: bool,
    pub open_map: Option<String>,
    pub preload_hint: Option<String>,
    pub reports: Vec<BTreeMap<String, String>>,
    pub ended: bool,
}

/// A complete segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    pub number: u64,
    pub uri: String,
    pub duration: f64,
    pub parts: Vec<Part>,
    pub breaks: bool,
    /// That holds for it, whether or not it is named here.
    pub map: Option<String>,
    pub date: Option<String>,
}

/// A partial segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub uri: String,
    pub duration: f64,
    pub independent: bool,
}

impl Playlist {
    /// Reads a playlist and holds it to the rules that need no other.
    ///
    /// # Errors
    /// With the rule that is broken.
    pub fn parse(text: &str) -> Result<Self> {
        let playlist = read(text).with_context(|| format!("in the playlist\n{text}"))?;
        playlist.check().with_context(|| format!("in the playlist\n{text}"))?;
        Ok(playlist)
    }

    /// Holds a later playlist to what may change (§6.2.1), and returns it whole when it is a delta update of this one.
    ///
    /// # Errors
    /// With the rule that is broken.
    pub fn followed_by(&self, mut next: Self) -> Result<Self> {
        ensure!(next.target_duration == self.target_duration, "the target duration must not change (§6.2.1)");
        ensure!(next.media_sequence >= self.media_sequence, "the media sequence number must not go down (§4.4.3.2)");
        ensure!(!self.ended || next.ended, "an end is forever");
        if next.skipped > 0 {
            self.fill(&mut next)?;
        }
        for segment in &next.segments {
            let Some(before) = self.segments.iter().find(|before| before.number == segment.number) else { continue };
            ensure!(before.uri == segment.uri, "a segment's name must not change");
            ensure!(before.duration.to_bits() == segment.duration.to_bits(), "a segment's duration must not change");
            ensure!(before.breaks == segment.breaks, "a segment's tags must not change");
            ensure!(before.date == segment.date && before.map == segment.map, "a segment's tags must not change");
        }
        self.discontinuities_go_on(&next)?;
        self.open_goes_on(&next)?;
        Ok(next)
    }

    fn discontinuities_go_on(&self, next: &Self) -> Result<()> {
        let removed = self.segments.iter().filter(|segment| segment.number < next.media_sequence);
        let counted = self.discontinuity_sequence + removed.filter(|segment| segment.breaks).count() as u64;
        if next.media_sequence <= self.media_sequence + self.segments.len() as u64 {
            ensure!(
                next.discontinuity_sequence == counted,
                "each discontinuity that leaves counts (§4.4.3.3): {} after {counted}",
                next.discontinuity_sequence
            );
        }
        // segments that came and went unseen may have had some
        ensure!(
            next.discontinuity_sequence >= counted,
            "the discontinuity sequence number must not go down (§4.4.3.3): {} after {counted}",
            next.discontinuity_sequence
        );
        Ok(())
    }

    /// The discontinuity sequence number of the newest part (§4.4.3.3).
    #[must_use]
    pub fn newest_discontinuity(&self) -> u64 {
        let breaks = self.segments.iter().filter(|segment| segment.breaks).count() as u64;
        self.discontinuity_sequence + breaks + u64::from(self.open_breaks && !self.open.is_empty())
    }

    /// The playlist's complete segment or open one with this number has the parts that were promised.
    fn open_goes_on(&self, next: &Self) -> Result<()> {
        let number = self.media_sequence + self.segments.len() as u64;
        let later = match next.segments.iter().find(|segment| segment.number == number) {
            Some(segment) => &segment.parts,
            None if next.media_sequence + next.segments.len() as u64 == number => &next.open,
            None => return Ok(()),
        };
        ensure!(
            later.len() >= self.open.len() && later.iter().zip(&self.open).all(|(a, b)| a == b) || later.is_empty(),
            "parts must not change: {:?} became {later:?}",
            self.open
        );
        if let (Some(hint), Some(part)) = (&self.preload_hint, later.get(self.open.len())) {
            ensure!(*hint == part.uri, "the hint was {hint}, the part is {} (§4.4.5.3)", part.uri);
        }
        Ok(())
    }

    fn fill(&self, next: &mut Self) -> Result<()> {
        let mut segments = Vec::new();
        for number in (next.media_sequence..).take(next.skipped) {
            let known = self.segments.iter().find(|segment| segment.number == number);
            let known =
                known.with_context(|| format!("segment {number} is skipped, and was never listed (§6.2.5.1)"))?;
            // its parts may have left since
            segments.push(Segment { parts: Vec::new(), ..known.clone() });
        }
        let map = segments.last().and_then(|last| last.map.clone());
        for segment in &mut next.segments {
            if segment.map.is_some() {
                break;
            }
            segment.map.clone_from(&map);
        }
        segments.append(&mut next.segments);
        next.segments = segments;
        next.skipped = 0;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let target = self.target_duration as f64;
        ensure!(self.target_duration > 0, "a target duration is required (§4.4.3.1)");
        ensure!(self.part_target > 0.0, "parts need a part target (§4.4.3.7)");
        ensure!(self.can_block_reload, "low latency needs blocking reload (B.1)");
        ensure!(self.hold_back >= 3.0 * target, "HOLD-BACK is at least three target durations (§4.4.3.8)");
        ensure!(
            self.part_hold_back >= 2.0 * self.part_target,
            "PART-HOLD-BACK is at least two part targets (§4.4.3.8)"
        );
        ensure!(self.can_skip_until >= 6.0 * target, "CAN-SKIP-UNTIL is at least six target durations (§4.4.3.8)");
        for segment in &self.segments {
            ensure!(
                segment.duration.round() <= target,
                "{} is longer than the target duration (§4.4.3.1)",
                segment.uri
            );
            ensure!(segment.date.is_some(), "{} has no date", segment.uri);
            ensure!(
                segment.map.is_some() || self.skipped > 0,
                "{} has no initialization segment (§3.1.2)",
                segment.uri
            );
            if !segment.parts.is_empty() {
                let sum: f64 = segment.parts.iter().map(|part| part.duration).sum();
                ensure!((sum - segment.duration).abs() < 0.001, "the parts of {} last {sum} s (§3.2)", segment.uri);
            }
            self.check_parts(&segment.parts, true)?;
        }
        self.check_parts(&self.open, false)?;
        ensure!(self.ended == self.preload_hint.is_none() || self.segments.is_empty(), "a hint until the end (B.1)");
        let mut after: f64 = self.open.iter().map(|part| part.duration).sum();
        for segment in self.segments.iter().rev() {
            ensure!(
                after > 3.0 * target || !segment.parts.is_empty(),
                "the parts of {} are missing (B.1)",
                segment.uri
            );
            after += segment.duration;
        }
        Ok(())
    }

    fn check_parts(&self, parts: &[Part], complete: bool) -> Result<()> {
        for (index, part) in parts.iter().enumerate() {
            let is_last = complete && index + 1 == parts.len();
            ensure!(part.duration <= self.part_target + 0.000_01, "{} is longer than the part target", part.uri);
            ensure!(
                is_last || part.independent || part.duration >= 0.85 * self.part_target,
                "{} lasts {} s, less than 85 % of the part target (§4.4.4.9)",
                part.uri,
                part.duration
            );
        }
        Ok(())
    }
}

fn read(text: &str) -> Result<Playlist> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some("#EXTM3U"), "the first line is #EXTM3U");
    let mut playlist = Playlist::default();
    let (mut segment, mut map) = (Segment::default(), None);
    let mut extinf = None;
    for line in lines {
        let Some(tag) = line.strip_prefix('#') else {
            segment.uri = line.to_owned();
            segment.duration = extinf.take().context("a URI needs an EXTINF before it")?;
            segment.number = playlist.media_sequence + (playlist.skipped + playlist.segments.len()) as u64;
            segment.map.clone_from(&map);
            playlist.segments.push(std::mem::take(&mut segment));
            continue;
        };
        let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
        match name {
            "EXTINF" => extinf = Some(value.trim_end_matches(',').parse()?),
            "EXT-X-DISCONTINUITY" => segment.breaks = true,
            "EXT-X-PROGRAM-DATE-TIME" => segment.date = Some(value.to_owned()),
            "EXT-X-MAP" => map = Some(attributes(value)?.remove("URI").context("a map has a URI")?),
            "EXT-X-PART" => segment.parts.push(part(value)?),
            _ => header(&mut playlist, name, value)?,
        }
    }
    playlist.open = segment.parts;
    playlist.open_breaks = segment.breaks;
    playlist.open_map = map;
    Ok(playlist)
}

fn header(playlist: &mut Playlist, name: &str, value: &str) -> Result<()> {
    let number = |attributes: &BTreeMap<String, String>, name: &str| -> Result<f64> {
        Ok(attributes.get(name).with_context(|| format!("{name} is missing"))?.parse()?)
    };
    match name {
        "EXT-X-VERSION" => ensure!(value.parse::<u32>()? >= 9, "delta updates need version 9 (§8)"),
        "EXT-X-TARGETDURATION" => playlist.target_duration = value.parse()?,
        "EXT-X-MEDIA-SEQUENCE" => {
            ensure!(playlist.segments.is_empty(), "before the first segment (§4.4.3.2)");
            playlist.media_sequence = value.parse()?;
        }
        "EXT-X-DISCONTINUITY-SEQUENCE" => {
            ensure!(playlist.segments.is_empty(), "before the first segment (§4.4.3.3)");
            playlist.discontinuity_sequence = value.parse()?;
        }
        "EXT-X-INDEPENDENT-SEGMENTS" => playlist.independent_segments = true,
        "EXT-X-ENDLIST" => playlist.ended = true,
        "EXT-X-PART-INF" => playlist.part_target = number(&attributes(value)?, "PART-TARGET")?,
        "EXT-X-SERVER-CONTROL" => {
            let attributes = attributes(value)?;
            playlist.can_block_reload = attributes.get("CAN-BLOCK-RELOAD").is_some_and(|value| value == "YES");
            playlist.can_skip_until = number(&attributes, "CAN-SKIP-UNTIL")?;
            playlist.hold_back = number(&attributes, "HOLD-BACK")?;
            playlist.part_hold_back = number(&attributes, "PART-HOLD-BACK")?;
        }
        "EXT-X-SKIP" => {
            ensure!(playlist.segments.is_empty(), "a skip is before all segments (§4.4.5.2)");
            playlist.skipped = attributes(value)?.get("SKIPPED-SEGMENTS").context("how many?")?.parse()?;
        }
        "EXT-X-PRELOAD-HINT" => {
            let mut attributes = attributes(value)?;
            ensure!(attributes.get("TYPE").is_some_and(|kind| kind == "PART"), "of a part");
            ensure!(playlist.preload_hint.is_none(), "one hint of a type (§4.4.5.3)");
            playlist.preload_hint = attributes.remove("URI");
        }
        "EXT-X-RENDITION-REPORT" => playlist.reports.push(attributes(value)?),
        _ => bail!("{name} is not known"),
    }
    Ok(())
}

fn part(value: &str) -> Result<Part> {
    let mut attributes = attributes(value)?;
    Ok(Part {
        uri: attributes.remove("URI").context("a part has a URI")?,
        duration: attributes.remove("DURATION").context("a part has a duration")?.parse()?,
        independent: attributes.remove("INDEPENDENT").is_some_and(|value| value == "YES"),
    })
}

/// An attribute list (§4.2); a quoted string loses its quotes.
fn attributes(list: &str) -> Result<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').context("an attribute is NAME=value")?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"').context("a quoted string ends")?;
                (value, after.strip_prefix(',').unwrap_or(after))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        ensure!(attributes.insert(name.to_owned(), value.to_owned()).is_none(), "{name} comes twice");
        rest = after;
    }
    Ok(attributes)
}
