use super::*;
use crate::path::Transport;

fn path(port: u16) -> Path {
    Path { peer: ([192, 0, 2, 1], port).into(), local: None, transport: Transport::Udp }
}

const DTLS: [u8; 2] = [22, 0xfe];

#[test]
fn a_datagram_is_told_by_its_first_bytes() {
    let class = |first: u8, second: u8| Class::of(&[first, second]);
    assert_eq!(
        [class(0, 1), class(3, 0), class(4, 0), class(19, 0)],
        [Class::Stun, Class::Stun, Class::Other, Class::Other]
    );
    assert_eq!([class(20, 0), class(63, 0), class(64, 0)], [Class::Dtls, Class::Dtls, Class::Other]);
    assert_eq!([class(128, 96), class(191, 224), class(192, 0)], [Class::Rtp, Class::Rtp, Class::Other]);
    assert_eq!([class(128, 200), class(128, 192), class(191, 223)], [Class::Rtcp; 3]);
    assert_eq!([Class::of(&[]), Class::of(&[128])], [Class::Other; 2]);
}

#[test]
fn the_datagrams_of_a_path_are_its_sessions() {
    let mut directory = Directory::new(Limits::default());
    directory.add("one".to_owned(), 1).unwrap();
    directory.add("two".to_owned(), 2).unwrap();
    assert_eq!(directory.find(&path(1), &DTLS), None, "nobody has proved to be there");
    directory.learn("one", path(1));
    directory.learn("two", path(2));
    assert_eq!([directory.find(&path(1), &DTLS), directory.find(&path(2), &DTLS)], [Some(1), Some(2)]);

    directory.learn("two", path(1));
    directory.remove("one");
    assert_eq!(directory.find(&path(1), &DTLS), Some(2), "an address that another peer has now stays");
    directory.remove("two");
    assert_eq!((directory.find(&path(1), &DTLS), directory.find(&path(2), &DTLS)), (None, None));
    assert!(directory.is_empty() && directory.paths.is_empty());
}

#[test]
fn a_session_has_a_bounded_number_of_paths() {
    let mut directory = Directory::new(Limits::default());
    directory.add("one".to_owned(), 1).unwrap();
    for port in 1..=44 {
        directory.learn("one", path(port));
        directory.learn("one", path(port));
    }
    assert_eq!(directory.paths.len(), MAX_PATHS);
    assert_eq!((directory.find(&path(12), &DTLS), directory.find(&path(13), &DTLS)), (None, Some(1)));
}

#[test]
fn sessions_are_bounded_and_half_open_ones_more_so() {
    let mut directory = Directory::new(Limits { sessions: 3, half_open: 2, connections: 0 });
    directory.add("one".to_owned(), 1).unwrap();
    assert_eq!(directory.add("one".to_owned(), 9), Err(Full::Name));
    directory.add("two".to_owned(), 2).unwrap();
    assert_eq!(directory.add("three".to_owned(), 3), Err(Full::HalfOpen));
    directory.open("one");
    directory.open("one");
    assert_eq!(directory.half_open(), 1);
    directory.add("three".to_owned(), 3).unwrap();
    directory.open("three");
    assert_eq!(directory.add("four".to_owned(), 4), Err(Full::Sessions));
    directory.remove("one");
    directory.remove("two");
    assert_eq!((directory.len(), directory.half_open()), (1, 0));
}
