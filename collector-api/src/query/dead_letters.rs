//! What arrived and was refused, newest first.

use devmon_core::wire::Reason;

use super::{Page, QueryError};
use crate::store::engine::{DeadLetter, Store};

/// Dead letters that are looked through at a time.
const LETTERS_AT_ONCE: usize = 256;

/// A page of dead letters, those with an id below `before` first; with a reason, those that have it.
///
/// # Errors
/// [`QueryError::Store`].
pub fn list(
    store: &dyn Store,
    reason: Option<Reason>,
    mut before: Option<u64>,
    limit: usize,
) -> Result<Page<DeadLetter>, QueryError> {
    if reason.is_none() {
        return Ok(Page::cut(store.dead_letters(before, limit + 1)?, limit));
    }
    let mut found = Vec::new();
    while found.len() <= limit {
        let letters = store.dead_letters(before, LETTERS_AT_ONCE)?;
        let Some(last) = letters.last() else { break };
        before = Some(last.id);
        found.extend(letters.into_iter().filter(|l| Some(l.reason) == reason));
    }
    Ok(Page::cut(found, limit))
}

/// One dead letter, whole.
///
/// # Errors
/// [`QueryError::NoDeadLetter`], [`QueryError::Store`].
pub fn one(store: &dyn Store, id: u64) -> Result<DeadLetter, QueryError> {
    // Newest first below `id + 1` is `id` itself if it is there; above the largest id there is no such bound.
    let newest = store.dead_letters(id.checked_add(1), 1)?;
    newest
        .into_iter()
        .find(|letter| letter.id == id)
        .ok_or(QueryError::NoDeadLetter(id))
}
