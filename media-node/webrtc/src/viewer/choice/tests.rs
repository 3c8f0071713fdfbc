use super::*;

/// Three encodings, in no order of their rates.
const RATES: [Option<u64>; 3] = [Some(500_000), Some(150_000), Some(2_000_000)];
const LOW: usize = 1;
const MIDDLE: usize = 0;
const HIGH: usize = 2;

/// A viewer that reports once a second.
struct Viewer {
    choice: Choice,
    current: usize,
    rates: [Option<u64>; 3],
    now: Instant,
}

impl Viewer {
    fn new() -> Self {
        let current = lowest(&RATES).unwrap();
        Self { choice: Choice::new(), current, rates: RATES, now: crate::clock::for_tests() }
    }

    fn says(&mut self, fraction_lost: u8, round_trip: u64) -> usize {
        self.now += Duration::from_secs(1);
        let said = Said { fraction_lost, round_trip: Some(Duration::from_millis(round_trip)) };
        let wanted = self.choice.reported(said, &self.rates, self.current, self.now);
        if wanted != self.current {
            self.choice.changed(&self.rates, self.current, wanted, self.now);
            self.current = wanted;
        }
        self.current
    }

    /// The seconds until it has an encoding, of which it says that it is well.
    fn seconds_to(&mut self, wanted: usize) -> u32 {
        (1..100).find(|_| self.says(0, 40) == wanted).expect("within 100 s")
    }
}

#[test]
fn a_viewer_that_is_well_has_the_best_within_seconds() {
    let mut viewer = Viewer::new();
    assert_eq!(viewer.current, LOW);
    assert!(viewer.seconds_to(MIDDLE) <= 3);
    assert!(viewer.seconds_to(HIGH) <= 4);
    assert!((0..100).all(|_| viewer.says(2, 40) == HIGH));
}

#[test]
fn a_trial_that_fails_is_over_with_the_report_that_says_so_and_the_next_waits_longer() {
    let mut viewer = Viewer::new();
    viewer.seconds_to(MIDDLE);
    let mut waits = Vec::new();
    for _ in 0..6 {
        waits.push(viewer.seconds_to(HIGH));
        assert_eq!(viewer.says(100, 40), HIGH, "it may be of what came before");
        assert_eq!(viewer.says(100, 40), MIDDLE);
    }
    assert!(waits.is_sorted() && waits[1] >= 5 && waits[5] > 50 && waits[5] < 65, "{waits:?}");
}

#[test]
fn queues_on_the_way_lead_to_a_lower_encoding_before_anything_is_lost() {
    let mut viewer = Viewer::new();
    viewer.seconds_to(HIGH);
    for _ in 0..10 {
        viewer.says(0, 40);
    }
    assert_eq!(viewer.says(0, 130), HIGH);
    assert_eq!(viewer.says(0, 250), MIDDLE);
    assert_eq!(viewer.says(0, 250), MIDDLE, "it may be of what came before");
    assert_eq!(viewer.says(0, 250), LOW);
    assert_eq!(viewer.says(255, 900), LOW, "there is none that is lower");
}

#[test]
fn a_viewers_own_estimate_counts_where_it_is_lower() {
    let mut viewer = Viewer::new();
    viewer.seconds_to(HIGH);
    viewer.says(0, 40);
    viewer.choice.estimated(1_000_000, viewer.now);
    assert_eq!(viewer.says(0, 40), MIDDLE);
    assert_eq!(viewer.says(0, 40), MIDDLE, "which it can take");
}

#[test]
fn an_encoding_that_ends_gives_way_to_one_that_comes() {
    let mut viewer = Viewer::new();
    viewer.seconds_to(HIGH);
    viewer.rates[HIGH] = None;
    assert_eq!(viewer.says(0, 40), LOW);
    viewer.rates = [None; 3];
    assert_eq!(viewer.says(0, 40), LOW);
}
