//! A service that breaks in the middle.

use std::sync::atomic::{AtomicU32, Ordering};

use tests::s3::{Ask, Fault};

use crate::growing::Rig;

/// The fault for the first so many requests of a kind.
fn first(count: u32, of: fn(&Ask) -> bool, fault: Fault) -> impl Fn(&Ask) -> Fault + Send + Sync {
    let seen = AtomicU32::new(0);
    move |ask| if of(ask) && seen.fetch_add(1, Ordering::Relaxed) < count { fault.clone() } else { Fault::None }
}

async fn uploads_through(of: fn(&Ask) -> bool, fault: Fault) {
    let mut rig = Rig::new("").await;
    rig.s3.script(first(2, of, fault));
    rig.grow(11);
    rig.close();
    let uploaded = rig.uploaded().await;
    rig.is_whole(&uploaded);
}

#[tokio::test]
async fn a_busy_service_is_asked_again() {
    uploads_through(Ask::is_part, Fault::Status(503, "SlowDown")).await;
}

#[tokio::test]
async fn a_part_whose_connection_breaks_is_sent_again() {
    uploads_through(Ask::is_part, Fault::Reset).await;
    uploads_through(Ask::is_part, Fault::Lost).await;
}

#[tokio::test]
async fn an_end_that_fails_is_tried_again() {
    uploads_through(Ask::is_complete, Fault::Status(500, "InternalError")).await;
}

#[tokio::test]
async fn an_end_whose_answer_was_lost_is_seen_to_be_done() {
    let mut rig = Rig::new("").await;
    rig.s3.script(first(1, Ask::is_complete, Fault::Lost));
    rig.grow(6);
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
    assert_eq!(rig.s3.asks().iter().filter(|ask| ask.is_begin()).count(), 1, "it was not sent anew");
}

#[tokio::test]
async fn an_upload_that_a_rule_has_removed_begins_anew_from_the_disk() {
    let mut rig = Rig::new("").await;
    rig.grow(6);
    rig.parts(1).await;
    rig.s3.script(first(1, Ask::is_part, Fault::Status(404, "NoSuchUpload")));
    rig.grow(6);
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
    assert_eq!(rig.s3.asks().iter().filter(|ask| ask.is_begin()).count(), 2);
}
