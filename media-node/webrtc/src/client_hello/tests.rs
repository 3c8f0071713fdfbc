use super::*;

/// A message with the given extensions, as one or more records of `part` bytes.
fn hello(extensions: &[u8], part: usize) -> Vec<Vec<u8>> {
    let mut message = vec![0xfe, 0xfd];
    message.extend([7; 32]);
    message.extend([0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
    message.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    message.extend(extensions);
    let total = u32::try_from(message.len()).unwrap().to_be_bytes();
    let record = |(number, chunk): (usize, &[u8])| {
        let three = |number: usize| u32::try_from(number).unwrap().to_be_bytes()[1..].to_vec();
        let handshake = [&[1][..], &total[1..], &[0, 0], &three(number * part), &three(chunk.len()), chunk].concat();
        let length = u16::try_from(handshake.len()).unwrap().to_be_bytes();
        [&[22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0][..], &length, &handshake].concat()
    };
    message.chunks(part).enumerate().map(record).collect()
}

const BOTH: [u8; 14] = [0, 23, 0, 0, 0, 14, 0, 6, 0, 4, 0, 1, 0, 7];

#[test]
fn the_offered_profiles_are_found() {
    let offered = |extensions: &[u8]| Hello::default().read(&hello(extensions, 4_096)[0]);
    assert_eq!(
        offered(&[BOTH.as_slice(), &[0]].concat()[..14]),
        Offered::Profiles(vec![Profile::CmSha1, Profile::Gcm128])
    );
    assert_eq!(offered(&[0, 14, 0, 5, 0, 2, 0, 8, 0]), Offered::Profiles(vec![Profile::Gcm256]));
    assert_eq!(offered(&[]), Offered::Profiles(vec![]));
    assert_eq!(offered(&[0, 14, 0, 9, 0, 2, 0, 8]), Offered::Malformed, "longer than it is");
}

#[test]
fn a_message_in_parts_is_waited_for_in_any_order() {
    let parts = hello(&BOTH, 20);
    assert_eq!(parts.len(), 3);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let mut hello = Hello::default();
        assert_eq!(hello.read(&parts[order[0]]), Offered::Incomplete);
        assert_eq!(hello.read(&parts[order[1]]), Offered::Incomplete);
        assert_eq!(hello.read(&parts[order[2]]), Offered::Profiles(vec![Profile::CmSha1, Profile::Gcm128]));
    }
}

#[test]
fn a_message_without_end_is_not_waited_for() {
    let part = &hello(&BOTH, 20)[0];
    let mut hello = Hello::default();
    for _ in 0..MAX_DATAGRAMS {
        assert_eq!(hello.read(part), Offered::Incomplete);
    }
    assert_eq!(hello.read(part), Offered::Malformed);
    // a length of 16 MiB
    let mut long = part.clone();
    long[14..17].fill(0xff);
    assert_eq!(Hello::default().read(&long), Offered::Malformed);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        Hello::default().read(&bytes);
        for mut record in hello(&bytes, 4_096) {
            Hello::default().read(&record);
            let end = record.len() - bytes.len() / 2;
            record.truncate(end);
            Hello::default().read(&record);
        }
    }
}
