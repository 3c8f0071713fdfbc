use super::*;

fn told(compound: &[u8]) -> (Vec<Feedback>, Result<(), Malformed>) {
    let mut told = Vec::new();
    let result = read(compound, |feedback| told.push(feedback));
    (told, result)
}

#[test]
fn a_compound_of_reports_and_requests_is_read() {
    let report = [
        &[0x81, 201, 0, 7, 0, 0, 0, 5][..],
        &[0, 0, 0, 9, 64, 0, 0, 3, 0, 1, 0, 2, 0, 0, 0, 90, 1, 2, 3, 4, 0, 1, 0, 0],
    ];
    let pli = [0x81, 206, 0, 2, 0, 0, 0, 5, 0, 0, 0, 9];
    let fir = [0x84, 206, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0, 0];
    let unknown = [0x8f, 206, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0];
    let nack = [0x81, 205, 0, 3, 0, 0, 0, 5, 0, 0, 0, 9, 0xff, 0xff, 0x80, 0x01];
    let (told, result) = told(&[report.concat(), pli.to_vec(), fir.to_vec(), unknown.to_vec(), nack.to_vec()].concat());

    assert_eq!(result, Ok(()));
    let lost = |sequence| Feedback::Nack { ssrc: 9, sequence };
    let report = Report {
        ssrc: 9,
        fraction_lost: 64,
        total_lost: 3,
        highest: 65_538,
        jitter: 90,
        last_sender_report: 0x0102_0304,
        delay: 65_536,
    };
    let wanted = |ssrc| Feedback::KeyframeWanted { ssrc };
    assert_eq!(told, [Feedback::Report(report), wanted(9), wanted(8), lost(0xffff), lost(0), lost(15)]);
}

#[test]
fn what_is_cut_off_is_refused() {
    assert_eq!(told(&[0x81, 206, 0, 3, 0, 0, 0, 5]).1, Err(Malformed));
    assert_eq!(told(&[0x41, 206, 0, 1, 0, 0, 0, 5]).1, Err(Malformed), "another version");
    // a report that counts more blocks than it has tells of those that it has
    assert_eq!(told(&[0x9f, 201, 0, 1, 0, 0, 0, 5]), (vec![], Ok(())));
}

#[test]
fn a_sender_report_names_its_source() {
    let mut out = Vec::new();
    SenderReport { ssrc: 0x0102_0304, ntp: 5, rtp: 6, packets: 7, octets: 8 }.write("stream", &mut out);
    let report = [0x80, 200, 0, 6, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 8];
    let name = [0x81, 202, 0, 4, 1, 2, 3, 4, 1, 6, b's', b't', b'r', b'e', b'a', b'm', 0, 0, 0, 0];
    assert_eq!(out, [&report[..], &name[..]].concat());
    assert_eq!(told(&out), (vec![Feedback::SenderReport { ssrc: 0x0102_0304, ntp: 5, rtp: 6 }], Ok(())));
}

#[test]
fn what_a_receiver_writes_is_read() {
    let report = |ssrc| Report {
        ssrc,
        fraction_lost: 64,
        total_lost: 3,
        highest: 65_538,
        jitter: 90,
        last_sender_report: 7,
        delay: 8,
    };
    let (mut out, sequences) = (Vec::new(), [65_535, 0, 14, 16, 40]);
    write_receiver_report(5, &[report(9), report(10)], &mut out);
    write_nacks(5, 9, &sequences, &mut out);
    write_nacks(5, 9, &[], &mut out);
    write_picture_loss(5, 10, &mut out);

    let mut expected = vec![Feedback::Report(report(9)), Feedback::Report(report(10))];
    expected.extend(sequences.map(|sequence| Feedback::Nack { ssrc: 9, sequence }));
    expected.push(Feedback::KeyframeWanted { ssrc: 10 });
    assert_eq!(told(&out), (expected, Ok(())));
    // three entries: 16 is 17 after 65,535
    assert_eq!(out.len(), 8 + 2 * 24 + 12 + 3 * 4 + 12);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        for head in [&[][..], &[0x81, 201, 0, 1], &[0x9f, 200, 0, 9], &[0x81, 205, 0, 9], &[0x84, 206, 0, 9]] {
            let (_, _refused) = told(&[head, &bytes].concat());
        }
    }
}

#[test]
fn a_viewers_estimate_is_read() {
    let estimate = |exponent: u8, mantissa: u8| {
        let value = [1, exponent << 2, 0, mantissa];
        told(&[&[0x8f, 206, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0][..], b"REMB", &value, &[0, 0, 0, 9]].concat())
    };
    assert_eq!(estimate(3, 200), (vec![Feedback::Estimate { bits: 1_600 }], Ok(())));
    assert_eq!(estimate(63, 200), (vec![Feedback::Estimate { bits: u64::MAX }], Ok(())));
}
