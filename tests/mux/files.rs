//! Files of each codec, while they are live and when they are finished.

use std::{fs, path::Path};

use anyhow::Result;
use media_core::{Kind, MediaTime, Packet, Timescale};
use mux::Event;
use tests::{probe, repository};

use crate::{
    clips::{self, AAC, Clip, H264, TONE, VIDEO},
    tools::{self, Stream},
};

/// What a recording may be off: less than people notice.
const OFFSET: f64 = 0.020;
/// How far sound may drift from its publisher's clock before it is set to it, and a frame.
const DRIFT: f64 = 0.050 + 1024.0 / 48_000.0;

#[test]
fn h264_with_b_frames_and_aac_is_recorded() -> Result<()> {
    is_recorded("h264", |folder| clips::flv(folder, &[VIDEO, TONE, H264, AAC]), &["h264", "aac"])
}

#[test]
fn sound_that_starts_later_stays_later() -> Result<()> {
    let late = "-itsoffset 0.5";
    is_recorded("late", |folder| clips::flv(folder, &[VIDEO, late, TONE, H264, AAC]), &["h264", "aac"])
}

#[test]
fn h264_alone_is_recorded() -> Result<()> {
    is_recorded("video", |folder| clips::flv(folder, &[VIDEO, H264]), &["h264"])
}

#[test]
fn aac_of_44100_hz_alone_is_recorded() -> Result<()> {
    is_recorded("audio", |folder| clips::flv(folder, &[TONE, AAC, "-ar 44100 -ac 2"]), &["aac"])
}

#[test]
fn h265_with_b_frames_and_opus_is_recorded() -> Result<()> {
    let h265 =
        "-pix_fmt yuv420p -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50:bframes=3 -tag:v hvc1";
    is_recorded("h265", |folder| clips::enhanced(folder, &[VIDEO, TONE, h265, "-c:a libopus"]), &["hevc", "opus"])
}

#[test]
fn vp9_and_opus_of_60_ms_are_recorded() -> Result<()> {
    let vp9 = "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 50";
    let opus = "-c:a libopus -frame_duration 60";
    is_recorded("vp9", |folder| clips::enhanced(folder, &[VIDEO, TONE, vp9, opus]), &["vp9", "opus"])
}

#[test]
fn av1_is_recorded() -> Result<()> {
    let av1 = "-pix_fmt yuv420p -c:v libaom-av1 -usage realtime -cpu-used 8 -g 50";
    is_recorded("av1", |folder| clips::enhanced(folder, &[VIDEO, TONE, av1, "-c:a libopus"]), &["av1", "opus"])
}

#[test]
fn another_picture_size_begins_another_file() -> Result<()> {
    let folder = repository::folder("mux-sizes")?;
    let small = clips::flv(folder.path(), &[VIDEO, TONE, H264, AAC])?;
    let sized = "-f lavfi -i testsrc2=size=640x360:rate=25";
    let large = clips::flv(folder.path(), &[sized, TONE, H264, AAC])?;
    let packets: Vec<_> = small.packets.into_iter().chain(large.packets).collect();

    let files = tools::record(&tools::events(&packets));

    assert_eq!(files.len(), 2);
    for (number, live) in files.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.mp4"));
        fs::write(&path, live.finish()?)?;
        tools::decodes(&path)?;
        assert_eq!(tools::probe(&path)?[0].packets, 125);
    }
    Ok(())
}

#[test]
fn sound_whose_clock_drifts_stays_within_what_is_let_pass_of_its_publisher() -> Result<()> {
    let folder = repository::folder("mux-drift")?;
    let clip = clips::claps(folder.path(), 40)?;
    for (name, drift) in [("fast", 0.99), ("slow", 1.01)] {
        let packets: Vec<_> = clip.packets.iter().map(|packet| drifting(packet, drift)).collect();
        let events = tools::events(&packets);
        let live = tools::record(&events).remove(0);
        let path = folder.path().join(format!("{name}.mp4"));
        fs::write(&path, live.finish()?)?;

        // by its own count sound would be off by 400 ms in the end
        let apart = probe::claps(&path)?;
        assert_eq!(apart.len(), 20, "{apart:?}");
        for (number, apart) in (0..).zip(&apart) {
            // what the publisher says: the beep of each odd second is sent that much too late
            let said = f64::from(2 * number + 1) * (drift - 1.0);
            assert!((apart - said).abs() <= DRIFT, "{name}: beep {number} is {apart} s off, where {said} was sent");
        }
    }
    Ok(())
}

/// A packet of a publisher whose clock for sound is off.
fn drifting(packet: &Packet, drift: f64) -> Packet {
    let millis = packet.time.as_millis();
    let millis = if packet.track.kind == Kind::Audio { (millis as f64 * drift).round() as i64 } else { millis };
    Packet::new(packet.track, MediaTime::new(millis, Timescale::MILLIS), packet.role, packet.payload.clone())
}

/// Records a clip, and compares the file, live and finished, with what was sent.
fn is_recorded(name: &str, clip: impl FnOnce(&Path) -> Result<Clip>, codecs: &[&str]) -> Result<()> {
    let folder = repository::folder(&format!("mux-{name}"))?;
    let Clip { source, packets } = clip(folder.path())?;
    let sent = tools::probe(&source)?;
    let events = tools::events(&packets);
    let size =
        events.iter().find_map(|event| if let Event::Init(init) = event { Some(init.resolution()) } else { None });
    assert_eq!(size, Some(sent.iter().any(|stream| !is_sound(stream)).then_some((320, 180))));
    let mut files = tools::record(&events);
    assert_eq!(files.len(), 1, "one file");
    let live = files.remove(0);

    let path = live.write(folder.path(), "live.mp4")?;
    tools::decodes(&path)?;
    compare(&sent, &tools::probe(&path)?, codecs);

    let path = folder.path().join("finished.mp4");
    fs::write(&path, live.finish()?)?;
    tools::decodes(&path)?;
    let finished = tools::probe(&path)?;
    compare(&sent, &finished, codecs);
    let start = finished.iter().map(|stream| stream.start).fold(f64::INFINITY, f64::min);
    assert!(start.abs() < OFFSET, "it starts at zero: {finished:?}");
    Ok(())
}

fn is_sound(stream: &Stream) -> bool {
    ["aac", "opus"].contains(&stream.codec.as_str())
}

fn compare(sent: &[Stream], recorded: &[Stream], codecs: &[&str]) {
    assert_eq!(recorded.iter().map(|stream| &stream.codec).collect::<Vec<_>>(), codecs);
    for (sent, recorded) in sent.iter().zip(recorded) {
        assert_eq!(recorded.packets, sent.packets, "{recorded:?}, but {sent:?} was sent");
        // a sender may say that of its last frame, of 60 ms at most, nothing is heard
        assert!((recorded.length - sent.length).abs() < 0.07, "{recorded:?}, but {sent:?} was sent");
    }
    if let ([video, audio], [sent_video, sent_audio]) = (recorded, sent) {
        let moved = (audio.start - video.start) - (sent_audio.start - sent_video.start);
        assert!(moved.abs() <= OFFSET, "audio has moved by {moved} s");
    }
}
