//! Brings machine and store together: decide, patch, and on a conflict read again and decide anew.

use json_patch::{Patch, PatchOperation};
use tallylight_crds::{Broadcast, BroadcastStatus};

use crate::{
    Error, Key, Store,
    machine::{self, Input, Rejection, Step},
};

/// Lost races before it is called a fault: one Broadcast has two writers, its node and the operator, so even two is rare.
const MAX_ROUNDS: usize = 16;

/// What became of an input.
#[derive(Debug)]
pub enum Committed {
    /// It is durable. Holds the Broadcast as the store answered.
    Done(Box<Broadcast>),
    /// It may not happen.
    Rejected(Rejection),
    /// The Broadcast, or the one of that UID, is gone.
    Gone,
}

/// Commits an input, starting from `known`, the Broadcast as it was last read.
///
/// # Errors
/// [`Error::Unavailable`] when the store gives no answer: the same input may be given again, and takes effect once.
pub async fn commit<S: Store>(store: &S, known: &Broadcast, input: &Input) -> Result<Committed, Error> {
    commit_with(store, known, input, |_, _| Vec::new()).await
}

/// Commits an input as [`commit`] does, and in the same patch what `annotate` adds, given the Broadcast as it was and the
/// status that the patch makes without it. It must leave the ledger and the session alone.
///
/// # Errors
/// As [`commit`].
pub async fn commit_with<S: Store>(
    store: &S,
    known: &Broadcast,
    input: &Input,
    annotate: impl Fn(&Broadcast, &BroadcastStatus) -> Vec<PatchOperation> + Send,
) -> Result<Committed, Error> {
    let key = Key::of(known);
    let uid = known.metadata.uid.as_deref().unwrap_or_default();
    let mut current = known.clone();
    for _ in 0..MAX_ROUNDS {
        let (transition, then) = match machine::apply(&current.status_or_default(), input) {
            Ok(Step::Write(transition)) => (transition, Then::Done),
            Ok(Step::First(transition)) => (transition, Then::Again),
            Ok(Step::Settled) => return Ok(Committed::Done(Box::new(current))),
            // What was read may be old: only a fresh read may reject.
            Err(_) if is_same(&current, known) => match reread(store, &key, uid).await? {
                Some(fresh) if !is_same(&fresh, known) => {
                    current = fresh;
                    continue;
                }
                Some(fresh) => return Ok(rejection(&fresh, input)),
                None => return Ok(Committed::Gone),
            },
            Err(rejection) => return Ok(Committed::Rejected(rejection)),
        };
        let mut operations = transition.patch.0;
        operations.extend(annotate(&current, &transition.status));
        match store.patch_status(&key, uid, &Patch(operations)).await {
            Ok(broadcast) if then == Then::Again => current = broadcast,
            Ok(broadcast) => return Ok(Committed::Done(Box::new(broadcast))),
            Err(Error::NotFound) => return Ok(Committed::Gone),
            Err(Error::Conflict) => match reread(store, &key, uid).await? {
                Some(fresh) => current = fresh,
                None => return Ok(Committed::Gone),
            },
            Err(error) => return Err(error),
        }
    }
    Err(Error::Invalid { message: format!("{MAX_ROUNDS} patches in a row met a conflict") })
}

/// What follows a patch that was taken.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Done,
    Again,
}

fn rejection(fresh: &Broadcast, input: &Input) -> Committed {
    match machine::apply(&fresh.status_or_default(), input) {
        Err(rejection) => Committed::Rejected(rejection),
        Ok(_) => Committed::Done(Box::new(fresh.clone())),
    }
}

fn is_same(a: &Broadcast, b: &Broadcast) -> bool {
    a.metadata.resource_version == b.metadata.resource_version
}

async fn reread<S: Store>(store: &S, key: &Key, uid: &str) -> Result<Option<Broadcast>, Error> {
    let found = store.get(key).await?;
    Ok(found.filter(|broadcast| broadcast.metadata.uid.as_deref() == Some(uid)))
}
