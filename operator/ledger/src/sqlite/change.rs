//! What a request does to a row: as an API server would do it.

use std::{collections::BTreeMap, sync::Arc};

use json_patch::{Patch, PatchErrorKind};
use tallylight_crds::{Broadcast, BroadcastSpec, Recording};

use super::{
    Change,
    table::{Row, Table},
    unavailable,
};
use crate::{Error, Key};

/// Annotation with the names of those that were applied, so that they go when they are applied no more.
const APPLIED: &str = "tallylight.dev/applied-annotations";

pub(super) fn put(table: &Table, broadcast: &Broadcast) -> Result<Broadcast, Error> {
    let Some(mut row) = table.get::<Broadcast>(&Key::of(broadcast))? else {
        let mut new = broadcast.clone();
        new.metadata.annotations = annotations(None, broadcast.metadata.annotations.as_ref());
        return table.create(new);
    };
    let annotations = annotations(row.metadata.annotations.as_ref(), broadcast.metadata.annotations.as_ref());
    immutable("spec.pool", &row.spec.pool, &broadcast.spec.pool)?;
    immutable("spec.streamID", &row.spec.stream_id, &broadcast.spec.stream_id)?;
    let same: bool = row.spec == broadcast.spec
        && row.metadata.labels == broadcast.metadata.labels
        && row.metadata.annotations == annotations;
    if same {
        return Ok(row);
    }
    if row.spec != broadcast.spec {
        row.metadata.generation = row.metadata.generation.map(|g| g + 1);
    }
    row.spec = BroadcastSpec::clone(&broadcast.spec);
    row.metadata.labels.clone_from(&broadcast.metadata.labels);
    row.metadata.annotations = annotations;
    table.update(row)
}

/// Those that are applied, and those that others wrote.
fn annotations(
    known: Option<&BTreeMap<String, String>>,
    applied: Option<&BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    let before: Vec<&str> =
        known.and_then(|known| known.get(APPLIED)).map_or_else(Vec::new, |all| all.split(',').collect());
    let is_of_others = |name: &str| name != APPLIED && !before.contains(&name);
    let mut next = known.cloned().unwrap_or_default();
    next.retain(|name, _| is_of_others(name));
    if let Some(applied) = applied.filter(|applied| !applied.is_empty()) {
        next.extend(applied.clone());
        next.insert(APPLIED.to_owned(), applied.keys().map(String::as_str).collect::<Vec<_>>().join(","));
    }
    Some(next).filter(|next| !next.is_empty() || known.is_some())
}

fn immutable<T: PartialEq>(field: &str, old: &T, new: &T) -> Result<(), Error> {
    if old == new { Ok(()) } else { Err(Error::Invalid { message: format!("{field} is immutable") }) }
}

pub(super) fn patch_row<R: Row>(table: &Table, key: &Key, uid: &str, patch: &Patch) -> Result<R, Error> {
    let row: R = of_uid(table, key, uid)?;
    let mut value = serde_json::to_value(&row).map_err(unavailable)?;
    if let Err(error) = json_patch::patch(&mut value, patch) {
        return Err(match error.kind {
            PatchErrorKind::TestFailed => Error::Conflict,
            _ => Error::Invalid { message: error.to_string() },
        });
    }
    let patched: R = serde_json::from_value(value).map_err(|error| Error::Invalid { message: error.to_string() })?;
    // Like a status subresource: nothing but the status changes.
    table.update(row.with_status_of(patched))
}

pub(super) fn annotate(
    table: &Table,
    key: &Key,
    uid: &str,
    name: String,
    value: Option<String>,
) -> Result<Broadcast, Error> {
    let mut row: Broadcast = of_uid(table, key, uid)?;
    let annotations = row.metadata.annotations.get_or_insert_default();
    match value {
        Some(value) => annotations.insert(name, value),
        None => annotations.remove(&name),
    };
    table.update(row)
}

pub(super) fn assign(table: &Table, known: &Recording, node: String) -> Result<Recording, Error> {
    let mut row: Recording = unchanged(table, known)?.ok_or(Error::NotFound)?;
    row.spec.node = node;
    table.update(row)
}

/// What became of an object that somebody wants to be rid of.
pub(super) enum Removal<R> {
    /// It was gone before.
    Absent,
    /// Something holds it.
    Held(R),
    Gone(R),
}

impl<R: Row> Removal<R> {
    pub(super) fn change(&self) -> Option<Change> {
        match self {
            Self::Absent => None,
            Self::Held(row) => Some(R::applied(Arc::new(row.clone()))),
            Self::Gone(row) => Some(R::deleted(row)),
        }
    }
}

pub(super) fn delete<R: Row>(table: &Table, key: &Key, uid: &str, version: Option<&str>) -> Result<Removal<R>, Error> {
    let mut row: R = of_uid(table, key, uid)?;
    if version.is_some() && row.metadata().resource_version.as_deref() != version {
        return Err(Error::Conflict);
    }
    if row.metadata().finalizers.iter().flatten().next().is_none() {
        table.remove::<R>(key)?;
        return Ok(Removal::Gone(row));
    }
    if row.metadata().deletion_timestamp.is_none() {
        row.metadata_mut().deletion_timestamp = Some(table.now());
        row = table.update(row)?;
    }
    Ok(Removal::Held(row))
}

pub(super) fn release<R: Row>(table: &Table, known: &R, finalizer: &str) -> Result<Removal<R>, Error> {
    let Some(mut row) = unchanged(table, known)? else { return Ok(Removal::Absent) };
    let key = row.key();
    let metadata = row.metadata_mut();
    let finalizers = metadata.finalizers.get_or_insert_default();
    finalizers.retain(|f| f != finalizer);
    if finalizers.is_empty() && metadata.deletion_timestamp.is_some() {
        table.remove::<R>(&key)?;
        return Ok(Removal::Gone(row));
    }
    Ok(Removal::Held(table.update(row)?))
}

/// The row of that UID; another one of its name is a conflict, as a failed precondition is.
fn of_uid<R: Row>(table: &Table, key: &Key, uid: &str) -> Result<R, Error> {
    let row: R = table.get(key)?.ok_or(Error::NotFound)?;
    if row.metadata().uid.as_deref() == Some(uid) { Ok(row) } else { Err(Error::Conflict) }
}

/// The row of `known`, if there is one, and it is as it was read.
fn unchanged<R: Row>(table: &Table, known: &R) -> Result<Option<R>, Error> {
    let found: Option<R> = table.get(&known.key())?;
    let Some(row) = found.filter(|row| row.metadata().uid == known.metadata().uid) else { return Ok(None) };
    let is_same = row.metadata().resource_version == known.metadata().resource_version;
    if is_same { Ok(Some(row)) } else { Err(Error::Conflict) }
}
