use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_srtp::config::Config;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;

use super::*;

const PROFILES: [(Profile, ProtectionProfile); 3] = [
    (Profile::Gcm128, ProtectionProfile::AeadAes128Gcm),
    (Profile::Gcm256, ProtectionProfile::AeadAes256Gcm),
    (Profile::CmSha1, ProtectionProfile::Aes128CmHmacSha1_80),
];

/// We, the server, and another implementation as the client.
fn ends(profile: Profile, theirs: ProtectionProfile) -> (Session, Context, Context) {
    let provider = RingProvider::new();
    let material: Vec<u8> = (0..).take(profile.material_length()).collect();
    let mut config = Config { profile: theirs, ..Config::default() };
    config.set_session_keys_from_keying_material(&material, true).unwrap();
    let context = |key: &[u8], salt: &[u8]| Context::new(key, salt, theirs, None, None, provider.crypto()).unwrap();
    let send = context(&config.keys.local_master_key, &config.keys.local_master_salt);
    let receive = context(&config.keys.remote_master_key, &config.keys.remote_master_salt);
    (Session::new(profile, &material, false, provider.crypto()).unwrap(), send, receive)
}

#[test]
fn what_we_seal_another_implementation_opens() {
    for (profile, theirs) in PROFILES {
        let (mut session, _, mut receive) = ends(profile, theirs);
        // past the roll-over of the number's 16 bits
        for index in (0..140_000_u64).step_by(20_000) {
            let [.., high, low] = index.to_be_bytes();
            let plain = [&[0x80, 0xe0, high, low, 0, 0, 0, 1, 9, 9, 9, 9][..], b"a frame's payload"].concat();
            let mut packet = plain.clone();
            packet.resize(plain.len() + session.rtp_overhead(), 0);
            session.seal_rtp(&mut packet, index).unwrap();
            assert_ne!(packet[12..plain.len()], plain[12..], "{profile:?}");
            assert_eq!(receive.decrypt_rtp(&packet).unwrap()[..], plain, "{profile:?}, packet {index}");
        }
        for number in 0..3 {
            let plain = [0x80, 200, 0, 6, 9, 9, 9, 9, number, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4];
            let sealed = session.seal_rtcp(&plain).unwrap();
            assert_eq!(receive.decrypt_rtcp(&sealed).unwrap()[..], plain, "{profile:?}");
        }
    }
}

#[test]
fn what_another_implementation_seals_is_opened_once() {
    let plain = [0x80, 201, 0, 1, 7, 7, 7, 7];
    for (profile, theirs) in PROFILES {
        let (mut session, mut send, _) = ends(profile, theirs);
        let sealed: Vec<_> = (0..3).map(|_| send.encrypt_rtcp(&plain).unwrap()).collect();
        for at in [1, 0, 2] {
            assert_eq!(session.open_rtcp(&sealed[at]).unwrap(), plain, "{profile:?}, in any order");
            assert_eq!(session.open_rtcp(&sealed[at]), Err(Error::Replayed), "{profile:?}");
        }
    }
}

/// A packet of media with a source and an extension, as the peer has it.
fn media(number: u64, marker: u8) -> Vec<u8> {
    let [.., high, low] = number.to_be_bytes();
    let header = [0x91, 96, high, low, 0, 0, 0, 1, 9, 9, 9, 9, 5, 5, 5, 5, 0xbe, 0xde, 0, 1, 0x10, b'0', 0, 0];
    [&header[..], b"a frame's payload", &[marker]].concat()
}

fn open(session: &mut Session, sealed: &[u8]) -> Result<(Vec<u8>, u64), Error> {
    let header = rtp::Header::parse(sealed).map_err(|_malformed| Error::Short)?;
    let mut packet = sealed.to_vec();
    session.open_rtp(&mut packet, &header).map(|index| (packet, index))
}

#[test]
fn media_that_another_implementation_seals_is_opened_once_and_across_the_roll_over() {
    for (profile, theirs) in PROFILES {
        let (mut session, mut send, _) = ends(profile, theirs);
        // every two are swapped on the way
        let sealed: Vec<_> =
            (65_530..65_570).map(|number| (number, send.encrypt_rtp(&media(number, 7)).unwrap())).collect();
        for pair in sealed.chunks(2) {
            for (number, sealed) in pair.iter().rev() {
                assert_eq!(open(&mut session, sealed).unwrap(), (media(*number, 7), *number), "{profile:?}");
                assert_eq!(open(&mut session, sealed), Err(Error::Replayed), "{profile:?}");
            }
        }
    }
}

#[test]
fn media_that_is_forged_costs_no_memory() {
    for (profile, theirs) in PROFILES {
        let (mut session, mut send, _) = ends(profile, theirs);
        let sealed = send.encrypt_rtp(&media(1, 7)).unwrap().to_vec();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 0x01;
            if rtp::Header::parse(&forged).is_ok() {
                assert!(open(&mut session, &forged).is_err(), "{profile:?}, byte {at}");
            }
        }
        for end in 24..sealed.len() {
            assert!(open(&mut session, &sealed[..end]).is_err(), "{profile:?}, the first {end} bytes");
        }
        assert!(session.rtp_senders.is_empty());
        assert!(open(&mut session, &sealed).is_ok());
    }
}

#[test]
fn what_is_forged_costs_no_memory() {
    let plain = [0x80, 201, 0, 1, 7, 7, 7, 7];
    for (profile, theirs) in PROFILES {
        let (mut session, mut send, _) = ends(profile, theirs);
        let sealed = send.encrypt_rtcp(&plain).unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.to_vec();
            forged[at] ^= 0x10;
            assert_eq!(session.open_rtcp(&forged), Err(Error::Forged), "{profile:?}, byte {at}");
        }
        for end in 0..sealed.len() {
            assert!(session.open_rtcp(&sealed[..end]).is_err(), "{profile:?}, the first {end} bytes");
        }
        assert!(session.rtcp_senders.is_empty());
    }
}

#[test]
fn a_peer_has_a_bounded_number_of_senders() {
    let (mut session, mut send, _) = ends(Profile::Gcm128, ProtectionProfile::AeadAes128Gcm);
    let from = |sender: u8| [0x80, 201, 0, 1, 7, 7, 7, sender];
    for sender in 0..32 {
        assert!(session.open_rtcp(&send.encrypt_rtcp(&from(sender)).unwrap()).is_ok());
    }
    assert_eq!(session.open_rtcp(&send.encrypt_rtcp(&from(32)).unwrap()), Err(Error::Senders));
    assert!(session.open_rtcp(&send.encrypt_rtcp(&from(0)).unwrap()).is_ok(), "who was known still is");
}
