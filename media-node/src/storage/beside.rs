//! What is beside a playlist in its bucket: the folder of its segments. Only what is named as ours is seen: another may have a
//! folder of that name.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStore as _, ObjectStoreExt as _, path};

use super::{
    bucket::Bucket,
    playlist::{self, stem},
    salvage::Found,
    trouble::Trouble,
};

/// Deletions at once. A day of segments of 2 s is deleted within some minutes.
const DELETIONS: usize = 16;

impl Bucket {
    /// The files beside a playlist that are there, by their numbers.
    ///
    /// # Errors
    /// When the service does not say.
    pub async fn beside(&self, file_name: &str) -> Result<Vec<(usize, Found)>, Trouble> {
        let folder = self.folder(file_name);
        let (mut objects, mut found) = (self.store().list(Some(&folder)), Vec::new());
        while let Some(Some(object)) = self.within(objects.try_next()).await? {
            let mut parts = object.location.prefix_match(&folder).into_iter().flatten();
            if let (Some(name), None) = (parts.next(), parts.next())
                && let Some(number) = playlist::number(name.as_ref())
            {
                found.push((number, Found { bytes: object.size, etag: object.e_tag }));
            }
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(found)
    }

    /// Deletes them.
    ///
    /// # Errors
    /// When the service does not do it. What was deleted is.
    pub async fn delete_beside(&self, file_name: &str) -> Result<(), Trouble> {
        let folder = self.folder(file_name);
        let keys =
            self.beside(file_name).await?.into_iter().map(|(number, _)| folder.clone().join(playlist::name(number)));
        let deleted = stream::iter(keys).map(|key| async move { self.within(self.store().delete(&key)).await });
        deleted.buffer_unordered(DELETIONS).try_for_each(|_deleted| async { Ok(()) }).await
    }

    /// What their keys begin with.
    pub(super) fn folder(&self, file_name: &str) -> path::Path {
        self.key(stem(file_name))
    }
}
