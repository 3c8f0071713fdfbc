use super::*;

fn frame(is_keyframe: bool, sizes: &[usize]) -> Frame {
    let packets = sizes.iter().map(|size| Payload { bytes: vec![0; *size].into(), marker: false }).collect();
    Frame { timestamp: 0, time: Duration::ZERO, is_keyframe, packets }
}

#[test]
fn the_current_group_stays_however_old_it_is() {
    let (mut history, start) = (History::default(), crate::clock::for_tests());
    assert_eq!(history.push(&frame(false, &[1, 1]), start), 0..2);
    assert_eq!(history.group(), None);
    assert_eq!(history.push(&frame(true, &[5, 5]), start + Duration::from_secs(1)), 2..4);
    for second in 2..20 {
        history.push(&frame(false, &[1]), start + Duration::from_secs(second));
    }
    assert_eq!(history.group(), Some(2..22));
    assert!(history.get(1).is_none(), "it is before the group and old");
    assert!(history.get(2).is_some());
    assert_eq!(history.bytes_since(2), 28);
    assert_eq!((history.bytes_since(21), history.bytes_since(22)), (1, 0));

    history.push(&frame(true, &[1]), start + Duration::from_secs(20));
    assert_eq!(history.group(), Some(22..23));
    assert!(history.get(3).is_none(), "the group before is old");
    assert!(history.get(20).is_some(), "and its end is not");
}

#[test]
fn a_group_without_end_is_given_up() {
    let (mut history, start) = (History::default(), crate::clock::for_tests());
    history.push(&frame(true, &[1_000_000]), start);
    for _ in 0..20 {
        history.push(&frame(false, &[1_000_000]), start);
    }
    assert_eq!(history.group(), None);
    assert!(history.bytes <= MAX_BYTES);
    assert_eq!(history.bytes, history.bytes_since(0));

    for _ in 0..MAX_PACKETS + 10 {
        history.push(&frame(false, &[0]), start);
    }
    assert!(history.packets.len() <= MAX_PACKETS);
}
