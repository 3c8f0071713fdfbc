//! Playlists of a live stream, part by part, and what a player makes of them.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use mux::{
    Event, Muxer, Policy,
    playlist::{Delta, Report, Wait, Window, multivariant, uri::Resource},
};
use tests::{
    hls::{Part, Playlist},
    repository,
};

use crate::{
    clips::{self, AAC, H264, TONE, VIDEO},
    tools,
};

const DVR: Duration = Duration::from_secs(16);

#[test]
fn every_playlist_of_a_live_stream_keeps_the_rules() -> Result<()> {
    keeps_the_rules("rules", &[VIDEO, TONE, H264, AAC])
}

#[test]
fn a_stream_with_few_keyframes_keeps_the_rules() -> Result<()> {
    keeps_the_rules("gop", &[VIDEO, TONE, H264, "-g 250", AAC])
}

#[test]
fn sound_alone_keeps_the_rules() -> Result<()> {
    keeps_the_rules("sound", &[TONE, AAC])
}

#[test]
fn a_player_sees_all_of_a_stream_that_has_ended() -> Result<()> {
    let folder = repository::folder("mux-hls")?;
    let clip = clips::flv(folder.path(), &[VIDEO, TONE, H264, AAC])?;
    let mut window = Window::new(Policy::default(), DVR);
    window.extend(&tools::events(&clip.packets), Timestamp::UNIX_EPOCH);
    window.end();
    let text = window.media(Delta::Full, &[]);
    let index = write(folder.path(), &window, &text)?;

    tools::decodes(&index)?;
    let (sent, seen) = (tools::probe(&clip.source)?, tools::probe(&index)?);
    assert_eq!(seen.iter().map(|stream| stream.packets).collect::<Vec<_>>(), [sent[0].packets, sent[1].packets]);

    let variant = window.variant("index.m3u8".to_owned()).context("a segment is complete")?;
    assert_eq!(variant.resolution, Some((320, 180)));
    assert!(variant.frame_rate.is_some_and(|rate| (rate - 25.0).abs() < 1.0), "{variant:?}");
    let text = multivariant(&[variant]);
    let Ok(m3u8_rs::Playlist::MasterPlaylist(parsed)) = m3u8_rs::parse_playlist_res(text.as_bytes()) else {
        panic!("another parser takes it for something else: {text}")
    };
    let parsed = parsed.variants.first().context("one variant")?;
    assert!(parsed.codecs.as_ref().is_some_and(|codecs| codecs.starts_with("avc1.") && codecs.ends_with(",mp4a.40.2")));
    fs::write(folder.path().join("main.m3u8"), &text)?;
    tools::decodes(&folder.path().join("main.m3u8"))
}

/// Plays a clip into a window, and looks at its playlist after each event.
fn keeps_the_rules(name: &str, arguments: &[&str]) -> Result<()> {
    let folder = repository::folder(&format!("mux-{name}"))?;
    let clip = clips::long_flv(folder.path(), 40, arguments)?;
    let mut window = Window::new(Policy::default(), DVR);
    let mut last: Option<Playlist> = None;
    let mut now = Timestamp::UNIX_EPOCH;
    let (mut muxer, mut events) = (Muxer::new(Policy::default()), Vec::new());
    for packet in &clip.packets {
        events.clear();
        muxer.push(packet, &mut events);
        let parts = events.iter().filter_map(|event| if let Event::Part(part) = event { Some(part) } else { None });
        let length: Duration = parts.map(|part| part.duration).sum();
        now += length;
        window.extend(&events, now);
        if length.is_zero() {
            continue;
        }
        let Some(newest) = window.newest() else { continue };
        let reports = [Report { uri: "../other.m3u8".to_owned(), newest }];
        let text = window.media(Delta::Full, &reports);
        let playlist = Playlist::parse(&text)?;
        agrees(&text, &playlist)?;
        is_there(&window, &playlist)?;
        let delta = Playlist::parse(&window.media(Delta::Skip, &reports))?;
        if let Some(last) = &last {
            let whole = last.followed_by(playlist.clone())?;
            let by_delta = last.followed_by(delta)?;
            ensure!(names(&by_delta) == names(&whole), "a delta update says the same: {by_delta:?}\n{whole:?}");
        }
        last = Some(playlist);
    }
    let last = last.context("there were playlists")?;
    ensure!(last.media_sequence > 0, "segments have left the window: {last:?}");
    Ok(())
}

fn names(playlist: &Playlist) -> Vec<(u64, &str, Option<&String>)> {
    playlist.segments.iter().map(|segment| (segment.number, segment.uri.as_str(), segment.map.as_ref())).collect()
}

/// Another parser reads the same of the tags that it knows.
fn agrees(text: &str, ours: &Playlist) -> Result<()> {
    let theirs = match m3u8_rs::parse_playlist_res(text.as_bytes()) {
        Ok(m3u8_rs::Playlist::MediaPlaylist(theirs)) => theirs,
        // it takes a playlist without a complete segment for another kind
        Ok(m3u8_rs::Playlist::MasterPlaylist(_)) | Err(_) if ours.segments.is_empty() => return Ok(()),
        other => panic!("another parser makes of it {other:?}: {text}"),
    };
    ensure!(theirs.media_sequence == ours.media_sequence, "{text}");
    ensure!(theirs.target_duration == ours.target_duration, "{text}");
    ensure!(
        theirs.segments.iter().map(|segment| &segment.uri).eq(ours.segments.iter().map(|segment| &segment.uri)),
        "{text}"
    );
    Ok(())
}

/// What a playlist names can be had.
fn is_there(window: &Window, playlist: &Playlist) -> Result<()> {
    for segment in &playlist.segments {
        let Some(Resource::Segment(number)) = Resource::parse(&segment.uri) else { panic!("{segment:?}") };
        ensure!(window.segment(number).is_some_and(|mut fragments| fragments.next().is_some()), "{segment:?}");
        ensure!(window.wait(number, None) == Wait::Ready);
    }
    let parts = playlist.segments.iter().flat_map(|segment| &segment.parts).chain(&playlist.open);
    for Part { uri, .. } in parts {
        let Some(Resource::Part(position)) = Resource::parse(uri) else { panic!("{uri}") };
        ensure!(window.part(position).is_some(), "{uri}");
        ensure!(window.wait(position.segment, Some(position.part)) == Wait::Ready, "{uri}");
    }
    let hint = playlist.preload_hint.as_deref().context("there is a hint")?;
    let Some(Resource::Part(next)) = Resource::parse(hint) else { panic!("{hint}") };
    ensure!(window.part(next).is_none() && window.wait(next.segment, Some(next.part)) == Wait::Soon, "{hint}");
    ensure!(window.wait(next.segment + 2, None) == Wait::TooFar);
    Ok(())
}

/// Writes what a playlist names as files.
fn write(folder: &Path, window: &Window, text: &str) -> Result<std::path::PathBuf> {
    let index = folder.join("index.m3u8");
    fs::write(&index, text)?;
    let playlist = Playlist::parse(text)?;
    for segment in &playlist.segments {
        let Some(Resource::Segment(number)) = Resource::parse(&segment.uri) else { panic!("{segment:?}") };
        let bytes: Vec<u8> =
            window.segment(number).unwrap().flat_map(|fragment| fragment.chunks()).flatten().copied().collect();
        fs::write(folder.join(&segment.uri), bytes)?;
        let map = segment.map.as_deref().context("an initialization segment")?;
        let Some(Resource::Init(number)) = Resource::parse(map) else { panic!("{map}") };
        fs::write(folder.join(map), window.init(number).unwrap().bytes())?;
    }
    Ok(index)
}
