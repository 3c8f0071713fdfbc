use super::*;

/// Frames of silence, as ffmpeg's encoder has them: mono, and both channels of a pair.
const MONO: &[u8] = &[0x01, 0x18, 0x20, 0x07];
const STEREO: &[u8] = &[0x21, 0x10, 0x04, 0x60, 0x8C, 0x1C];
/// AAC-LC: 44.1 kHz mono, 48 kHz stereo.
const MONO_44100: &[u8] = &[0x12, 0x08];
const STEREO_48000: &[u8] = &[0x11, 0x90];

#[test]
fn sound_stays_on_the_publishers_clock() {
    const SECONDS: f64 = 40.0;

    for (configuration, frame, rate) in [(MONO_44100, MONO, 44_100.0), (STEREO_48000, STEREO, 48_000.0)] {
        // the publisher's clock is as far off in a minute as a bad one in ten
        for skew in [1.000_5, 0.999_5] {
            let (mut bridge, mut packets) = started(configuration);
            for index in 0..(SECONDS * rate / 1_024.0) as i64 {
                let millis = (index as f64 * 1_024_000.0 / rate * skew) as i64;
                bridge.push(&coded(millis, frame), &mut packets).unwrap();
            }

            let waiting = bridge.stream.as_ref().unwrap().late_millis();
            let end = packets.last().unwrap().time.as_millis() + 20 + waiting;
            let expected = (SECONDS * 1_000.0 * skew) as i64;
            assert!((end - expected).abs() <= 20 + 24, "{end} ms for {expected} at {rate} Hz with a skew of {skew}");
            let steps = packets.windows(2).skip(1).map(|pair| pair[1].time.ticks() - pair[0].time.ticks());
            assert!(steps.into_iter().all(|step| step == 960), "without a gap");
        }
    }
}

#[test]
fn packets_follow_each_other_without_a_gap() {
    let (mut bridge, mut packets) = started(MONO_44100);
    for index in 0..500_i64 {
        bridge.push(&coded(index * 1_024_000 / 44_100, MONO), &mut packets).unwrap();
    }

    let times: Vec<_> =
        packets.iter().filter(|packet| packet.role == Role::Key).map(|packet| packet.time.ticks()).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 960), "{times:?}");
    assert!(times.len() > 570, "{}", times.len());
}

#[test]
fn a_pause_is_kept() {
    let (mut bridge, mut packets) = started(STEREO_48000);
    for millis in [0, 21, 42, 5_000, 5_021, 5_042] {
        bridge.push(&coded(millis, STEREO), &mut packets).unwrap();
    }

    let late = bridge.stream.as_ref().unwrap().delay;
    let times: Vec<_> = packets[1..].iter().map(|packet| packet.time.ticks() + late).collect();
    assert_eq!(times, [0, 960, 1_920, 2_880, 240_000, 240_960, 241_920]);
}

#[test]
fn a_configuration_is_announced_once_and_again_when_it_changes() {
    let (mut bridge, mut packets) = started(MONO_44100);
    assert_eq!(&packets[0].payload[..], b"\x90OpusOpusHead\x01\x01\0\0\x80\xBB\0\0\0\0\0");
    bridge.push(&header(MONO_44100), &mut packets).unwrap();
    assert_eq!(packets.len(), 1);
    bridge.push(&header(STEREO_48000), &mut packets).unwrap();
    assert_eq!(packets[1].payload[14], 2);
}

#[test]
fn what_cannot_be_bridged_says_why() {
    let mut bridge = AacToOpus::default();
    let mut push = |payload: &[u8]| bridge.push(&packet(0, payload), &mut Vec::new());

    assert_eq!(push(b"\x91Opus\xF8"), Err(Error::Codec(AudioCodec::Opus)));
    assert_eq!(push(&[0xAF, 0, 0x11, 0xB0]), Err(Error::Configuration), "5.1");
    assert_eq!(push(&[0xAF, 0, 0x2B, 0x11, 0x88, 0]), Err(Error::Configuration), "HE-AAC");
    assert_eq!(push(&[0xAF, 1, 0x21]), Ok(()), "it has been said");
}

#[test]
fn silence_is_in_the_place_of_a_frame_that_cannot_be_decoded() {
    let (mut bridge, mut packets) = started(STEREO_48000);
    for millis in [0, 21, 43, 64] {
        assert_eq!(bridge.push(&coded(millis, &[0x40; 7]), &mut packets), Err(Error::Frame));
    }

    assert_eq!(packets.len(), 1 + 4, "4 x 1,024 samples are four packets and a rest");
}

impl Stream {
    /// What is in its resampler and encoder and waits for more.
    fn late_millis(&self) -> i64 {
        (self.delay + self.waiting()) / 48
    }
}

fn started(configuration: &[u8]) -> (AacToOpus, Vec<Packet>) {
    let (mut bridge, mut packets) = (AacToOpus::default(), Vec::new());
    bridge.push(&header(configuration), &mut packets).unwrap();
    (bridge, packets)
}

fn header(configuration: &[u8]) -> Packet {
    packet(0, &[&[0xAF, 0], configuration].concat())
}

fn coded(millis: i64, frame: &[u8]) -> Packet {
    packet(millis, &[&[0xAF, 1], frame].concat())
}

fn packet(millis: i64, payload: &[u8]) -> Packet {
    let time = MediaTime::new(millis, Timescale::MILLIS);
    Packet::new(Track::first(Kind::Audio), time, Role::Key, Bytes::copy_from_slice(payload))
}
