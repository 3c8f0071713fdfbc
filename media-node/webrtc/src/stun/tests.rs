use super::*;

/// RFC 5769 §2.1: a request with long attributes, its integrity and fingerprint.
const SAMPLE: [u8; 108] = [
    0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf,
    0xae, 0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73, 0x74, 0x20, 0x63, 0x6c, 0x69, 0x65,
    0x6e, 0x74, 0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff, 0x80, 0x29, 0x00, 0x08, 0x93, 0x2f, 0xf9, 0xb1, 0x51,
    0x26, 0x3b, 0x36, 0x00, 0x06, 0x00, 0x09, 0x65, 0x76, 0x74, 0x6a, 0x3a, 0x68, 0x36, 0x76, 0x59, 0x20, 0x20, 0x20,
    0x00, 0x08, 0x00, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3, 0xf2,
    0x49, 0xc1, 0xb5, 0x71, 0xa2, 0x80, 0x28, 0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
];

fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

/// A check as peers send it.
pub(crate) fn check(username: &str, password: &[u8], nominates: bool) -> Vec<u8> {
    let mut out = [&[0, 1, 0, 0][..], &COOKIE.to_be_bytes(), &[9; 12]].concat();
    let mut user = Vec::new();
    attribute(USERNAME, username.as_bytes(), &mut user);
    user.resize(user.len().next_multiple_of(4), 0);
    out.extend(user);
    if nominates {
        attribute(USE_CANDIDATE, &[], &mut out);
    }
    set_length(&mut out, 24);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password), &out);
    attribute(MESSAGE_INTEGRITY, tag.as_ref(), &mut out);
    set_length(&mut out, 8);
    let fingerprint = fingerprint_of(&out);
    attribute(FINGERPRINT, &fingerprint.to_be_bytes(), &mut out);
    out
}

#[test]
fn the_request_of_rfc_5769_is_genuine() {
    let request = Request::parse(&SAMPLE).unwrap();
    assert_eq!(request.local_ufrag(), "evtj");
    assert!(!request.nominates);
    let password = key("VOkJxbRl1RmTxUk/WvJxBt");
    assert_eq!(request.verify("evtj", "h6vY", &password), Ok(()));
    assert_eq!(request.verify("evtj", "h6vX", &password), Err(Error::Username));
    assert_eq!(request.verify("evtj", "h6vY", &key("another")), Err(Error::Integrity));
}

#[test]
fn a_change_anywhere_is_seen() {
    for at in 0..SAMPLE.len() {
        let mut changed = SAMPLE;
        changed[at] ^= 1;
        assert!(Request::parse(&changed).is_err(), "byte {at}");
    }
    for end in 0..SAMPLE.len() {
        assert!(Request::parse(&SAMPLE[..end]).is_err(), "the first {end} bytes");
    }
}

#[test]
fn the_response_says_where_the_request_came_from() {
    let password = key("VOkJxbRl1RmTxUk/WvJxBt");
    for (from, family, length) in [("192.0.2.1:32853", 1, 8_u8), ("[2001:db8::1]:32853", 2, 20)] {
        let from: SocketAddr = from.parse().unwrap();
        let response = Request::parse(&SAMPLE).unwrap().success(from, &password);

        assert_eq!(response[..2], [1, 1]);
        assert_eq!(usize::from(be16(&response, 2).unwrap()) + HEADER, response.len());
        assert_eq!(response[4..20], SAMPLE[4..20], "the cookie and the transaction");
        assert_eq!(response[20..26], [0, 0x20, 0, length, 0, family]);
        assert_eq!(be16(&response, 26).unwrap() ^ 0x2112, 32_853);
        let tag_at = response.len() - 32;
        let mut covered = response[..tag_at].to_vec();
        set_length(&mut covered, 24);
        assert!(hmac::verify(&password, &covered, &response[tag_at + 4..tag_at + 24]).is_ok());
        assert_eq!(be32(&response, response.len() - 4), Some(fingerprint_of(&response[..response.len() - 8])));
    }
    // RFC 5769 §2.2 has this address masked
    let response = Request::parse(&SAMPLE).unwrap().success("192.0.2.1:32853".parse().unwrap(), &password);
    assert_eq!(response[26..32], [0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
}

#[test]
fn what_is_no_request_is_passed_over() {
    let mut indication = SAMPLE;
    indication[..2].copy_from_slice(&[0, 0x11]);
    assert_eq!(Request::parse(&indication).unwrap_err(), Error::NotARequest);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _refused = Request::parse(&bytes);
        let mut message = bytes;
        message.splice(0..message.len().min(8), [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        message.resize(message.len().next_multiple_of(4), 0);
        set_length(&mut message, 0);
        let _refused = Request::parse(&message);
    }
}
