//! The media playlist (RFC 8216bis §4.4.2 to §4.4.5, appendix B).

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use super::{Listed, Position, Window, uri::Resource};

/// Parts are listed for this many target durations before the end; players join no further back by parts (appendix B.1:
/// at least three).
const PARTS_TARGETS: u32 = 3;
/// A delta update leaves out what is older than this many target durations (§4.4.3.8: at least six).
const SKIP_TARGETS: u32 = 6;
/// How far from the end a player without parts plays (§4.4.3.8: at least three target durations).
const HOLD_BACK_TARGETS: u32 = 3;
/// How far from the end a player with parts plays (§4.4.3.8: at least two part targets, better three).
const PART_HOLD_BACK_TARGETS: u32 = 3;

/// Whether a player has asked for the end of the playlist alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delta {
    /// All of it.
    Full,
    /// `_HLS_skip`: it has the older segments. All of it goes when there is too little to leave out.
    Skip,
}

/// What another playlist of the broadcast has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Relative to the playlist that carries it.
    pub uri: String,
    /// Its newest part.
    pub newest: Position,
}

impl Window {
    /// The media playlist as text; empty of segments before there is a part.
    #[must_use]
    pub fn media(&self, delta: Delta, reports: &[Report]) -> String {
        let mut text = String::with_capacity(4_096);
        self.write(&mut text, delta, reports).expect("a String takes whatever is written");
        text
    }

    /// Seconds that no segment's rounded duration exceeds.
    #[must_use]
    pub fn target_duration(&self) -> u64 {
        let seconds = self.policy.max_segment().as_millis().div_ceil(1_000);
        u64::try_from(seconds).unwrap_or(u64::MAX)
    }

    fn write(&self, text: &mut String, delta: Delta, reports: &[Report]) -> fmt::Result {
        let target = Duration::from_secs(self.target_duration());
        // a frame that lasts longer than a part should has a part of its own length
        let part_target = self.policy.part().max(self.longest_part);
        let skipped = self.skipped(delta, target * SKIP_TARGETS);
        writeln!(text, "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{}", target.as_secs())?;
        writeln!(
            text,
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={:.1},HOLD-BACK={:.1},PART-HOLD-BACK={:.5}",
            (target * SKIP_TARGETS).as_secs_f64(),
            (target * HOLD_BACK_TARGETS).as_secs_f64(),
            seconds_up(part_target * PART_HOLD_BACK_TARGETS),
        )?;
        writeln!(text, "#EXT-X-PART-INF:PART-TARGET={:.5}", seconds_up(part_target))?;
        writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{}", self.oldest())?;
        if self.discontinuities > 0 {
            writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuities)?;
        }
        if self.segments.iter().all(|listed| listed.segment.is_none_or(|segment| segment.independent)) {
            writeln!(text, "#EXT-X-INDEPENDENT-SEGMENTS")?;
        }
        if skipped > 0 {
            writeln!(text, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}")?;
        }
        let parts_from = self.parts_from(target * PARTS_TARGETS);
        let mut init = skipped.checked_sub(1).and_then(|last| Some(self.segments.get(last)?.init.number()));
        for (index, listed) in self.listed().enumerate().skip(skipped) {
            write_segment(text, listed, init, index >= parts_from)?;
            init = Some(listed.init.number());
        }
        self.write_end(text, reports)
    }

    fn write_end(&self, text: &mut String, reports: &[Report]) -> fmt::Result {
        if self.ended {
            return writeln!(text, "#EXT-X-ENDLIST");
        }
        let part = self.open.as_ref().map_or(0, |open| open.parts.len());
        if let (Ok(part), false) = (u32::try_from(part), self.segments.is_empty() && self.open.is_none()) {
            let next = Resource::Part(Position { segment: self.next, part });
            writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{next}\"")?;
        }
        for Report { uri, newest: Position { segment, part } } in reports {
            writeln!(text, "#EXT-X-RENDITION-REPORT:URI=\"{uri}\",LAST-MSN={segment},LAST-PART={part}")?;
        }
        Ok(())
    }

    /// How many segments a delta update leaves out.
    fn skipped(&self, delta: Delta, boundary: Duration) -> usize {
        if delta == Delta::Full {
            return 0;
        }
        self.segments.len() - self.recent(boundary)
    }

    /// Index of the first segment whose parts are listed.
    fn parts_from(&self, back: Duration) -> usize {
        self.segments.len() - self.recent(back)
    }

    /// How many complete segments end no further than this before the end.
    fn recent(&self, back: Duration) -> usize {
        let mut after = self.open.iter().flat_map(|open| &open.parts).map(|part| part.duration).sum::<Duration>();
        let ends = self.segments.iter().rev().map(|listed| {
            let end = after;
            after += listed.duration().unwrap_or_default();
            end
        });
        ends.take_while(|end| *end <= back).count()
    }
}

fn write_segment(text: &mut String, listed: &Listed, init: Option<u32>, with_parts: bool) -> fmt::Result {
    if listed.breaks {
        writeln!(text, "#EXT-X-DISCONTINUITY")?;
    }
    let number = listed.init.number();
    if init != Some(number) {
        writeln!(text, "#EXT-X-MAP:URI=\"{}\"", Resource::Init(number))?;
    }
    writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{:.3}", listed.date)?;
    for part in listed.parts.iter().filter(|_| with_parts || listed.segment.is_none()) {
        let uri = Resource::Part(Position { segment: part.segment, part: part.index });
        let independent = if part.independent { ",INDEPENDENT=YES" } else { "" };
        writeln!(text, "#EXT-X-PART:DURATION={:.5},URI=\"{uri}\"{independent}", part.duration.as_secs_f64())?;
    }
    if let Some(segment) = listed.segment {
        let uri = Resource::Segment(segment.number);
        writeln!(text, "#EXTINF:{:.5},\n{uri}", segment.duration.as_secs_f64())?;
    }
    Ok(())
}

/// Seconds, no less after they are rounded to five digits.
fn seconds_up(duration: Duration) -> f64 {
    let tens = duration.as_nanos().div_ceil(10_000);
    #[expect(clippy::cast_precision_loss, reason = "a duration of some seconds")]
    let seconds = tens as f64 / 100_000.0;
    seconds
}
