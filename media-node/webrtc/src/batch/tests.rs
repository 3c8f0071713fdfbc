use super::*;
use crate::path::Transport;

#[derive(Default)]
struct Calls {
    calls: Vec<(u16, usize, Option<usize>)>,
    is_full: bool,
}

impl Sink for Calls {
    fn send(&mut self, transmit: Transmit<'_>) -> Sent {
        self.calls.push((transmit.path.peer.port(), transmit.contents.len(), transmit.segment_size));
        if self.is_full { Sent::Refused } else { Sent::Taken }
    }
}

fn push(batch: &mut Batch<Calls>, port: u16, length: usize) {
    let path = Path { peer: ([192, 0, 2, 1], port).into(), local: None, transport: Transport::Udp };
    batch.push(path, length, |room| if room.len() == length { Ok(()) } else { Err(()) }).unwrap();
}

#[test]
fn packets_of_one_size_and_a_shorter_one_are_one_call() {
    let mut batch = Batch::new(Calls::default());
    for length in [1_000, 1_000, 1_000, 500] {
        push(&mut batch, 1, length);
    }
    push(&mut batch, 1, 700);
    batch.flush();
    batch.flush();
    assert_eq!(batch.sink_mut().calls, [(1, 3_500, Some(1_000)), (1, 700, None)]);
}

#[test]
fn a_longer_packet_and_another_path_begin_anew() {
    let mut batch = Batch::new(Calls::default());
    push(&mut batch, 1, 500);
    push(&mut batch, 1, 600);
    push(&mut batch, 2, 600);
    batch.flush();
    assert_eq!(batch.sink_mut().calls, [(1, 500, None), (1, 600, None), (2, 600, None)]);
}

#[test]
fn a_batch_is_no_more_than_the_kernel_takes() {
    let mut batch = Batch::new(Calls::default());
    for _ in 0..65 {
        push(&mut batch, 1, 100);
    }
    for _ in 0..48 {
        push(&mut batch, 2, 1_400);
    }
    batch.flush();
    let calls = &batch.sink_mut().calls;
    assert_eq!(calls[..2], [(1, 6_400, Some(100)), (1, 100, None)]);
    assert_eq!(calls[2..], [(2, 64_400, Some(1_400)), (2, 2_800, Some(1_400))]);
}

#[test]
fn what_is_refused_is_counted_by_packets() {
    let mut batch = Batch::new(Calls { is_full: true, ..Calls::default() });
    push(&mut batch, 1, 100);
    push(&mut batch, 1, 100);
    batch.flush();
    assert_eq!((batch.take_refused(), batch.take_refused()), (2, 0));
}

#[test]
fn what_cannot_be_written_is_left_out() {
    let mut batch = Batch::new(Calls::default());
    push(&mut batch, 1, 100);
    let path = Path { peer: ([192, 0, 2, 1], 1).into(), local: None, transport: Transport::Udp };
    assert_eq!(batch.push(path, 100, |_| Err("no")), Err("no"));
    batch.flush();
    assert_eq!(batch.sink_mut().calls, [(1, 100, None)]);
}
