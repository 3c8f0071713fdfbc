use super::*;

#[test]
fn frames_are_split_wherever_a_read_ends() {
    let bytes = [&[0, 3, 1, 2, 3, 0, 0, 0, 1][..], &[9, 0]].concat();
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let Some((frame, after)) = split(rest).unwrap() {
        frames.push(frame);
        rest = after;
    }
    assert_eq!((frames, rest), (vec![&[1, 2, 3][..], &[], &[9]], &[0][..]));
    for end in 0..5 {
        assert_eq!(split(&bytes[..end]), Ok(None), "the first {end} bytes");
    }
    assert_eq!(split(&[0x10, 0x01]), Err(Oversize));
}

#[test]
fn what_waits_is_whole_frames_and_bounded() {
    let (mut queue, datagram) = (Queue::default(), vec![7; 1_000]);
    let mut taken = 0;
    while queue.push([&datagram[..], &datagram].into_iter()) {
        taken += 2;
    }
    assert_eq!(taken, 2 * (MAX_QUEUE / 2_004));
    assert_eq!(queue.waiting().len(), taken * 1_002);
    assert_eq!(split(queue.waiting()).unwrap().unwrap().0, datagram);

    queue.advance(1_500);
    assert!(queue.push([&datagram[..]].into_iter()), "there is room again");
    let left = queue.waiting().len();
    queue.advance(MAX_QUEUE / 2);
    assert_eq!(queue.waiting().len(), left - MAX_QUEUE / 2);
    queue.advance(queue.waiting().len());
    assert!(queue.waiting().is_empty() && queue.bytes.capacity() <= KEPT_QUEUE);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_split_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let mut rest = &bytes[..];
        while let Ok(Some((frame, after))) = split(rest) {
            proptest::prop_assert_eq!(frame.len() + after.len() + HEADER, rest.len());
            rest = after;
        }
    }
}
