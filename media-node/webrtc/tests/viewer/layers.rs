//! A publisher's encodings of one picture: the viewer is sent one of them, by what it reports, and its decoder sees one stream.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use media_webrtc::history::{Frame, Payload};
use media_webrtc::source::Layer;
use media_webrtc::transport::Event;

use crate::world::{Setup, VIDEO, World};

const TICK: Duration = Duration::from_millis(40);
const LOW: usize = 1;
const HIGH: usize = 0;

/// Picture `number` of an encoding, which has a clock of its own and a keyframe every two seconds.
fn picture(layer: usize, number: u32) -> Frame {
    let count = if layer == HIGH { 5 } else { 1 };
    let packets = (0..count).map(|at| Payload {
        bytes: [&[0x7c, u8::try_from(layer).unwrap(), at], &vec![7; 1_000][..]].concat().into(),
        marker: at == count - 1,
    });
    let clock = [0xffff_0000_u32, 5_000];
    Frame {
        timestamp: clock[layer].wrapping_add(number * 3_600),
        time: TICK * number,
        is_keyframe: number.is_multiple_of(50) || (layer == LOW && number % 50 == 20),
        packets: packets.collect(),
    }
}

struct Stream {
    world: World,
    number: u32,
}

impl Stream {
    fn new() -> Self {
        let world = World::new(&Setup { video_layers: 2, ..Setup::default() });
        let mut stream = Self { world, number: 0 };
        // rates are known after a second
        stream.flow(3);
        assert!(stream.world.viewer.is_connected(), "{:?}", stream.world.events);
        stream
    }

    fn flow(&mut self, seconds: u32) {
        for _ in 0..25 * seconds {
            for layer in [HIGH, LOW] {
                let frame = picture(layer, self.number);
                let pushed = self.world.source.push(Layer { track: VIDEO, layer }, &frame, self.world.now).unwrap();
                self.world.viewer.send(&pushed, &self.world.source, &mut self.world.batch, self.world.now);
            }
            self.number += 1;
            self.world.run(TICK);
        }
    }

    /// The encodings that the viewer was sent, one after the other.
    fn sent(&self) -> Vec<u8> {
        let mut packets: Vec<_> = self.world.received.iter().filter(|packet| packet.payload.len() > 900).collect();
        packets.sort_by_key(|packet| *packet.seq_no);
        let mut layers: Vec<_> = packets.iter().map(|packet| packet.payload[1]).collect();
        layers.dedup();
        layers
    }
}

#[test]
fn a_viewer_that_is_well_is_led_to_the_better_encoding_and_sees_one_stream() {
    let mut stream = Stream::new();
    stream.flow(10);
    assert_eq!(stream.sent(), [1, 0]);
    let wanted = Event::KeyframeWanted(Layer { track: VIDEO, layer: HIGH });
    assert!(stream.world.events.contains(&wanted), "{:?}", stream.world.events);

    let mut packets: Vec<_> = stream.world.received.iter().collect();
    packets.sort_by_key(|packet| *packet.seq_no);
    for pair in packets.windows(2) {
        let [before, after] = pair else { unreachable!("windows of two") };
        assert_eq!(*after.seq_no - *before.seq_no, 1);
        let apart = after.header.timestamp.wrapping_sub(before.header.timestamp);
        assert_eq!(apart, if before.header.marker { 3_600 } else { 0 }, "{:?}", after.header);
    }
    // it began at a keyframe, and changed at one
    let first_of_high = packets.iter().position(|packet| packet.payload[1] == 0).unwrap();
    assert_eq!(packets[first_of_high].payload[2], 0);
}

#[test]
fn a_viewer_that_loses_much_of_the_better_encoding_is_led_back() {
    let mut stream = Stream::new();
    let is_bad = Rc::new(Cell::new(false));
    let (mut count, lossy) = (0_u32, is_bad.clone());
    stream.world.loss = Box::new(move |datagram| {
        let is_media = lossy.get() && datagram.len() > 900;
        count += u32::from(is_media);
        is_media && count.is_multiple_of(3)
    });
    stream.flow(10);
    assert_eq!(stream.sent().last(), Some(&0));
    is_bad.set(true);
    stream.flow(6);
    is_bad.set(false);
    assert_eq!(stream.sent().last(), Some(&1), "it has the lower one");
    let sent = stream.sent();
    stream.flow(2);
    assert_eq!(stream.sent(), sent, "and keeps it for a while");
}

#[test]
fn a_viewer_is_led_away_from_an_encoding_that_ends() {
    let mut stream = Stream::new();
    stream.flow(10);
    assert_eq!(stream.sent().last(), Some(&0));
    for number in stream.number..stream.number + 250 {
        let frame = picture(LOW, number);
        let layer = Layer { track: VIDEO, layer: LOW };
        let pushed = stream.world.source.push(layer, &frame, stream.world.now).unwrap();
        stream.world.viewer.send(&pushed, &stream.world.source, &mut stream.world.batch, stream.world.now);
        stream.world.run(TICK);
    }
    assert_eq!(stream.sent().last(), Some(&1));
}
