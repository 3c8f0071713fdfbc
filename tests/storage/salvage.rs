//! What is in a bucket of a file whose node is gone, or cut off.

use std::fs;

use tallylight_media_node::storage::{
    salvage::{Fetch, Interrupted},
    upload::Stopped,
};
use tests::s3::{Ask, Fault, S3};

use crate::growing::{FILE, MIB, Rig, bucket};

fn object(s3: &S3) -> Vec<u8> {
    fs::read(s3.file("vods", "live/show-1.mp4")).unwrap_or_default()
}

#[tokio::test]
async fn what_was_sent_becomes_an_object_and_is_fetched() {
    let mut rig = Rig::new("&acl=private").await;
    rig.grow(12);
    rig.parts(2).await;
    rig.kill().await;

    let found = rig.bucket.salvage(FILE).await.unwrap().unwrap();
    let again = rig.bucket.salvage(FILE).await.unwrap().unwrap();
    let to = rig.folder.path().join("fetched.mp4");
    rig.bucket.fetch(FILE, &mut Fetch::new(found.clone(), to.clone())).await.unwrap();

    let (here, fetched) = (fs::read(&rig.file).unwrap(), fs::read(to).unwrap());
    assert_eq!((found.bytes, fetched.len() as u64), (again.bytes, found.bytes));
    assert!(found.bytes > 10 * MIB && here[..fetched.len()] == fetched, "all parts, one after the other");
    assert!(rig.s3.uploads().is_empty(), "{:?}", rig.s3.uploads());
}

#[tokio::test]
async fn a_file_of_which_nothing_was_sent_is_not_there() {
    let rig = Rig::new("").await;
    assert_eq!(rig.bucket.salvage(FILE).await.unwrap(), None);
}

#[tokio::test]
async fn the_larger_of_an_object_and_an_upload_is_kept() {
    let mut rig = Rig::new("").await;
    rig.grow(12);
    rig.parts(2).await;
    rig.kill().await;
    let first = rig.bucket.salvage(FILE).await.unwrap().unwrap();

    // whoever has salvaged it sends it whole, and is lost on its way
    rig.begin_elsewhere().await;
    rig.grow(7);
    rig.parts(1).await;
    rig.kill().await;
    assert_eq!(rig.bucket.salvage(FILE).await.unwrap(), Some(first.clone()));
    assert!(rig.s3.uploads().is_empty());

    rig.begin_elsewhere().await;
    rig.grow(19);
    rig.parts(3).await;
    rig.kill().await;
    assert!(rig.bucket.salvage(FILE).await.unwrap().unwrap().bytes > first.bytes);
    assert!(rig.s3.uploads().is_empty());
}

#[tokio::test]
async fn a_node_that_was_cut_off_leaves_alone_what_another_has_taken_over() {
    let mut rig = Rig::new("").await;
    rig.grow(6);
    rig.parts(1).await;
    rig.lose();
    bucket(&rig.s3, &rig.folder, "vods", "").salvage(FILE).await.unwrap().unwrap();
    let salvaged = object(&rig.s3);

    rig.grow(6);
    let ended = rig.ended().await;

    assert!(matches!(ended, Err(Stopped::TakenOver)), "{ended:?}");
    assert!(object(&rig.s3) == salvaged, "the object is the other's");
    assert_eq!(rig.s3.asks().iter().filter(|ask| ask.is_begin()).count(), 1, "nothing was begun anew");
}

#[tokio::test]
async fn nobody_makes_an_object_of_a_file_that_is_not_its_own() {
    let mut rig = Rig::new("").await;
    rig.grow(6);
    rig.parts(1).await;
    rig.lose();
    rig.close();
    let ended = rig.ended().await;

    assert!(matches!(ended, Err(Stopped::TakenOver)), "{ended:?}");
    assert!(object(&rig.s3).is_empty());
    assert_eq!(rig.s3.uploads(), ["vods/live/show-1.mp4"], "what was sent is for the other");
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_was_interrupted_unless_the_object_has_changed() {
    let mut rig = Rig::new("").await;
    rig.grow(20);
    rig.close();
    rig.uploaded().await;
    let found = rig.bucket.salvage(FILE).await.unwrap().unwrap();
    let is_first = |ask: &Ask| ask.headers.get("range").is_some_and(|range| range == "bytes=0-8388607");
    rig.s3.script(move |ask| if is_first(ask) { Fault::None } else { Fault::Status(503, "SlowDown") });
    let to = rig.folder.path().join("fetched.mp4");
    let mut fetch = Fetch::new(found, to.clone());
    let interrupted = rig.bucket.fetch(FILE, &mut fetch).await;
    assert!(matches!(interrupted, Err(Interrupted::Bucket(_))), "{interrupted:?}");

    rig.s3.script(move |ask| if is_first(ask) { Fault::Status(500, "InternalError") } else { Fault::None });
    rig.bucket.fetch(FILE, &mut fetch).await.unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(&rig.file).unwrap());

    rig.s3.script(|_ask| Fault::None);
    let mut fetch = Fetch::new(rig.bucket.salvage(FILE).await.unwrap().unwrap(), to);
    rig.bucket.delete(FILE).await.unwrap();
    let changed = rig.bucket.fetch(FILE, &mut fetch).await;
    assert!(matches!(changed, Err(Interrupted::Changed)), "{changed:?}");
}
