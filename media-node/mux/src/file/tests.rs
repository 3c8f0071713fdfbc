use std::io::Cursor;

use mp4_atom::{Any, Decode as _};
use proptest::prelude::*;

use super::*;
use crate::{
    codec::{
        self,
        tests::{ASC, AVCC},
    },
    fragment::{Entry, Run},
};

#[test]
fn the_index_of_an_hour_is_small() {
    let (mut writer, _) = Writer::new(&init());
    let mut times = [0_u64; 2];
    // parts of 300 ms: nine frames at 30 a second, whose times are rounded to milliseconds, and sound
    for part in 0..12_000_u64 {
        let frame = |frame: u64| Entry {
            duration: if (part + frame).is_multiple_of(3) { 3_060 } else { 2_970 },
            size: 20_000 + u32::try_from(part * 37 % 9_000 + frame).unwrap(),
            composition: [7_200, 0, 3_600][usize::try_from(frame % 3).unwrap()],
            key: part.is_multiple_of(7) && frame == 0,
        };
        let sound = |_| Entry { duration: 1_024, size: 340, composition: 0, key: true };
        let video = run(1, &mut times[0], (0..9).map(frame).collect());
        let audio = run(2, &mut times[1], (0..14).map(sound).collect());
        writer.append(&fragment(vec![video, audio]));
    }

    assert!(writer.index_bytes() < 2_000_000, "{} bytes", writer.index_bytes());
    assert_eq!(writer.duration().as_secs(), 3_600);
}

#[test]
fn a_finished_file_points_at_each_sample() {
    let (mut writer, begin) = Writer::new(&init());
    assert_eq!(head(init().bytes()), Some(begin.clone()), "it can be made of what others keep");
    assert_eq!(head(&init().bytes()[..3]), None);
    let mut file = begin.to_vec();
    let entry = |size, composition, key| Entry { duration: 3_600, size, composition, key };
    // shown from -40 ms on, and sound that begins 100 ms after it
    let video = Run { track: 1, decode_time: 0, offset: 0, samples: vec![entry(3, 0, true), entry(2, -7_200, false)] };
    let sound = Entry { duration: 1_024, size: 4, composition: 0, key: true };
    let audio = Run { track: 2, decode_time: 2_880, offset: 0, samples: vec![sound, sound] };
    let later = Run { track: 1, decode_time: 90_000, offset: 0, samples: vec![entry(5, 0, true)] };
    for runs in [vec![video, audio], vec![later]] {
        let fragment = fragment(runs);
        writer.append(&fragment);
        fragment.chunks().for_each(|chunk| file.extend_from_slice(chunk));
    }
    let finish = writer.finish().unwrap();

    assert_eq!(finish.patch_at..finish.patch_at + 16, PATCHED, "after the ftyp");
    assert_eq!(finish.patch[8..], (file.len() as u64 - 28).to_be_bytes());
    let moov = Moov::decode(&mut &finish.append[..]).unwrap();
    assert_eq!(moov.mvex, None);
    let edits = |track: usize| {
        let entries = &moov.trak[track].edts.as_ref().unwrap().elst.as_ref().unwrap().entries;
        entries.iter().map(|edit| (edit.segment_duration, edit.media_time)).collect::<Vec<_>>()
    };
    assert_eq!(edits(0), [(93_600, Some(0))]);
    assert_eq!(edits(1), [(5_400 + 3_600, None), (3_840, Some(0))]);
    let stbl = &moov.trak[0].mdia.minf.stbl;
    let offsets: Vec<_> = stbl.ctts.as_ref().unwrap().entries.iter().map(|entry| entry.sample_offset).collect();
    assert_eq!(offsets, [3_600, -3_600, 3_600]);
    assert_eq!(stbl.stss.as_ref().unwrap().entries, [1, 3]);
    let deltas: Vec<_> = stbl.stts.entries.iter().map(|entry| (entry.sample_count, entry.sample_delta)).collect();
    assert_eq!(deltas, [(1, 3_600), (1, 86_400), (1, 3_600)], "the gap is in the last frame before it");
    let chunks = &stbl.co64.as_ref().unwrap().entries;
    let at = |offset: u64, len: usize| file[usize::try_from(offset).unwrap()..][..len].to_vec();
    assert_eq!(at(chunks[0], 5), [1, 1, 1, 2, 2]);
    assert_eq!(at(chunks[1], 5), [1, 1, 1, 1, 1]);
    let sound = &moov.trak[1].mdia.minf.stbl;
    assert_eq!((sound.stss.as_ref(), sound.ctts.as_ref()), (None, None));
    assert_eq!(at(sound.co64.as_ref().unwrap().entries[0], 8), [3, 3, 3, 3, 4, 4, 4, 4]);
}

#[test]
fn a_file_of_another_program_is_none_of_ours() {
    let (_, head) = Writer::new(&init());
    let ours = head.to_vec();
    let foreign = [ours[..28].to_vec(), ours[44..].to_vec()].concat();

    for file in [&b""[..], b"RIFF....", &foreign] {
        assert!(matches!(recover(&mut Cursor::new(file)), Err(Damaged::Head)));
    }
}

#[test]
fn a_fragment_that_does_not_go_on_ends_what_is_kept() {
    let (_, head) = Writer::new(&init());
    let sound = Entry { duration: 1_024, size: 4, composition: 0, key: true };
    let audio = |decode_time| Run { track: 2, decode_time, offset: 0, samples: vec![sound] };
    let stranger = Run { track: 9, ..audio(5_000) };
    let first = bytes(&fragment(vec![audio(1_024)]));

    for bad in [audio(0), stranger] {
        let file = [&head[..], &first, &bytes(&fragment(vec![bad]))].concat();
        let Ok(Recovered::Unfinished { writer }) = recover(&mut Cursor::new(&file)) else { panic!("it is ours") };
        assert_eq!(writer.len(), (head.len() + first.len()) as u64);
    }
}

proptest! {
    #[test]
    fn a_changed_file_is_finished_or_refused(at in 0_usize..2_000, byte in any::<u8>(), cut in 0_usize..2_000) {
        let (_, head) = Writer::new(&init());
        let sound = Entry { duration: 1_024, size: 4, composition: 0, key: true };
        let mut file = head.to_vec();
        for part in 0..4 {
            let audio = Run { track: 2, decode_time: part * 4_096, offset: 0, samples: vec![sound; 4] };
            file.extend(bytes(&fragment(vec![audio])));
        }
        if let Some(changed) = file.get_mut(at) {
            *changed = byte;
        }
        file.truncate(cut);
        if let Ok(Recovered::Unfinished { writer }) = recover(&mut Cursor::new(&file)) {
            prop_assert!(writer.len() <= file.len() as u64);
            if let Ok(finish) = writer.finish() {
                prop_assert!(Any::decode(&mut &finish.append[..]).is_ok());
            }
        }
    }
}

/// H.264 and AAC.
fn init() -> Init {
    let (avcc, asc) = (Bytes::from_static(AVCC), Bytes::from_static(ASC));
    let video = codec::video(rtmp::tag::VideoCodec::Avc, &avcc, None).unwrap().unwrap();
    let audio = codec::audio(rtmp::tag::AudioCodec::Aac, &asc).unwrap().unwrap();
    Init::new(0, &[video, audio])
}

fn run(track: u32, time: &mut u64, samples: Vec<Entry>) -> Run {
    let run = Run { track, decode_time: *time, offset: 0, samples };
    *time += run.samples.iter().map(|sample| u64::from(sample.duration)).sum::<u64>();
    run
}

/// Each payload counts the samples.
fn fragment(runs: Vec<Run>) -> Fragment {
    let sizes = runs.iter().flat_map(|run| &run.samples).map(|sample| sample.size as usize);
    let payloads = (1_u8..).zip(sizes).map(|(number, size)| Bytes::from(vec![number; size])).collect();
    Fragment::new(1, runs, payloads)
}

fn bytes(fragment: &Fragment) -> Vec<u8> {
    fragment.chunks().flatten().copied().collect()
}
