//! What arrived and was refused, newest first.

use super::{Page, QueryError};
use crate::store::engine::{DeadLetter, Store};

/// A page of dead letters, those with an id below `before` first.
///
/// # Errors
/// [`QueryError::Store`].
pub fn list(
    store: &dyn Store,
    before: Option<u64>,
    limit: usize,
) -> Result<Page<DeadLetter>, QueryError> {
    Ok(Page::cut(store.dead_letters(before, limit + 1)?, limit))
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
