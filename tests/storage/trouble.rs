//! What stands in the way of an upload is told, and cured without anybody's help to the upload.

use tests::s3::{KEY_ID, S3, SECRET};

use crate::growing::{Rig, write_key};

#[tokio::test]
async fn a_service_that_is_away_is_waited_for() {
    let mut rig = Rig::new("").await;
    rig.grow(6);
    rig.parts(1).await;
    rig.s3.stop().await;
    rig.grow(6);
    rig.close();
    let told = rig.troubled("StorageUnavailable").await.to_string();
    assert!(told.contains("goes on by itself"), "{told}");

    rig.s3.start_again().await.unwrap();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
}

#[tokio::test]
async fn refused_credentials_are_told_and_new_ones_are_taken() {
    let mut rig = Rig::new("").await;
    write_key(&rig.folder, KEY_ID, "wrong");
    rig.grow(6);
    let told = rig.troubled("CredentialsRefused").await.to_string();
    assert!(told.contains("SignatureDoesNotMatch") && !told.contains("wrong"), "{told}");

    rig.s3.set_key("rotated", "another");
    write_key(&rig.folder, "rotated", "another");
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
}

#[tokio::test]
async fn credentials_that_are_not_there_are_named() {
    let mut rig = Rig::new("").await;
    std::fs::remove_file(rig.folder.path().join("access-key-id")).unwrap();
    rig.grow(6);
    let told = rig.troubled("CredentialsRefused").await.to_string();
    assert!(told.contains("access-key-id cannot be read"), "{told}");

    write_key(&rig.folder, KEY_ID, SECRET);
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_told_and_used_when_it_is_made() {
    let mut rig = Rig::with(S3::start(&[]).await.unwrap(), "");
    rig.grow(6);
    rig.troubled("BucketMissing").await;

    rig.s3.make_bucket("vods").unwrap();
    rig.close();
    let uploaded = rig.uploaded().await;

    rig.is_whole(&uploaded);
}
