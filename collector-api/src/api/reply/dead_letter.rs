//! Refused messages.

use base64::Engine as _;
use devmon_core::wire::TimestampMs;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::openapi::schemas::{self, UnixMs};
use crate::store::engine::DeadLetter;

/// Bytes of a dead letter's payload that a list shows.
pub const DEAD_LETTER_SHOWN_BYTES: usize = 4_096;

/// A refused message in the list, its payload up to [`DEAD_LETTER_SHOWN_BYTES`].
#[derive(Debug, Serialize, JsonSchema)]
pub struct DeadLetterItem<'a> {
    id: String, // a text: beyond 2^53 a number would not survive a browser
    #[schemars(with = "UnixMs")]
    ts: TimestampMs,
    topic: &'a str,
    #[schemars(schema_with = "schemas::refusal")]
    reason: &'static str,
    detail: &'a str,
    size: usize,
    payload: String,
    #[schemars(schema_with = "schemas::payload_encoding")]
    payload_encoding: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl<'a> From<&'a DeadLetter> for DeadLetterItem<'a> {
    fn from(letter: &'a DeadLetter) -> Self {
        let (payload, payload_encoding) = match std::str::from_utf8(&letter.payload) {
            Ok(text) => (
                text[..text.floor_char_boundary(DEAD_LETTER_SHOWN_BYTES)].to_owned(),
                "utf-8",
            ),
            Err(_) => {
                let shown = letter.payload.len().min(DEAD_LETTER_SHOWN_BYTES);
                (
                    base64::engine::general_purpose::STANDARD.encode(&letter.payload[..shown]),
                    "base64",
                )
            }
        };
        Self {
            id: letter.id.to_string(),
            ts: letter.ts,
            topic: &letter.topic,
            reason: letter.reason.as_str(),
            detail: &letter.detail,
            size: letter.payload.len(),
            payload,
            payload_encoding,
            truncated: letter.payload.len() > DEAD_LETTER_SHOWN_BYTES,
        }
    }
}
